"""A 3 x 3 x 3 convolution in Pallas for Hopper GPUs, with fp8 or bfloat16 products.

Numbers are e4m3 (or bfloat16), sums float32, results bfloat16 after a factor for each channel. In
time two frames of history stand before the first, in space zeros around.

A block of threads makes a tile of one frame. For each frame, shift along the width and block of
channels, the copy engine fetches the tile's pixels and a row more above and below, which serve
three taps; it fills in the zeros at the frame's edges. The weights of a tap come one by one; with
``cluster=2`` two blocks fetch one half each for both. One warpgroup copies, the others multiply.

``benchmarks.convolution`` compares it with cuDNN. No model runs it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.pallas import mosaic_gpu as plgpu
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.target import current_cores

FP8, BF16 = jnp.float8_e4m3fn, jnp.bfloat16
CHANNELS = 128  # results of a tile
PIXELS = 64  # rows of a product of the tensor cores
HALF = 64  # channels of a bfloat16 result in 128 bytes


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the kernel works.

    Attributes:
      rows, columns: pixels of a tile. Tiles need not divide the frame.
      groups: warpgroups that compute, with rows * columns / groups pixels each.
      pixel_stages, weight_stages: buffers of the copied pixels and of the weights of a tap.
      cluster: blocks that share the weights, 1 or 2.
      out_stages: buffers of a warpgroup for results, of 64 pixels and 64 channels.
      dtype: of input and weights.
      registers: of a thread that computes, and of one that copies.
    """

    rows: int = 16
    columns: int = 16
    groups: int = 2
    pixel_stages: int = 3
    weight_stages: int = 4
    cluster: int = 1
    out_stages: int = 2
    dtype: Any = FP8
    registers: tuple[int, int] = (240, 24)

    @property
    def depth(self) -> int:
        """Channels of the input in 128 bytes."""
        return 128 // jnp.dtype(self.dtype).itemsize

    @property
    def group_pixels(self) -> int:
        """Pixels of a computing warpgroup."""
        return self.rows * self.columns // self.groups


def _tiled(shape: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory with rows of 128 bytes, as the tensor cores read it."""
    depth = 128 // jnp.dtype(dtype).itemsize
    transforms = (plgpu.TilingTransform((8, depth)), plgpu.SwizzleTransform(128))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def _two_views(copied: tuple[int, ...], tiled: tuple[int, ...], dtype: Any) -> Any:
    """Shared memory with rows of 128 bytes in two shapes: for the copy engine, and as ``_tiled``.

    Tiles as wide as the memory lie one after another, so both have the same order.
    """
    swizzled = plgpu.SMEM(copied, dtype, transforms=(plgpu.SwizzleTransform(128),))
    return plgpu.RefUnion(swizzled, _tiled(tiled, dtype))


def prepared_weights(weights: Array, variant: Variant) -> Array:
    """(3, 3, 3, in, out) as (taps in order of use, out, depth). Taps along the height are last."""
    blocks = weights.shape[3] // variant.depth
    split = weights.reshape(3, 3, 3, blocks, variant.depth, -1)
    # time, height, width, block, in, out -> time, width, block, height, out, in
    return split.transpose(0, 2, 3, 1, 5, 4).reshape(27 * blocks, -1, variant.depth)


def convolve(x: Array, weights: Array, scale: Array, variant: Variant) -> Array:
    """The convolution of (t + 2, h, w, in), with ``prepared_weights``, as bfloat16 (t, h, w, out).

    ``scale``: a float32 for each channel of the result.
    """
    frames, height, width, in_channels = x.shape
    frames, out_channels = frames - 2, weights.shape[1]
    rows, columns, groups, own = (
        variant.rows,
        variant.columns,
        variant.groups,
        variant.group_pixels,
    )
    if own % PIXELS or PIXELS % columns or columns % 8 or in_channels % variant.depth:
        raise ValueError(f"{variant} cannot convolve {x.shape}")
    blocks = in_channels // variant.depth
    steps = 9 * blocks
    splits = out_channels // CHANNELS
    down, across = -(-height // rows), -(-width // columns)
    clusters = current_cores() // variant.cluster
    items = splits * (-(-frames * down * across // variant.cluster))
    a_stages, w_stages = variant.pixel_stages, variant.weight_stages
    int32 = jnp.int32

    def kernel(x, weights, scale, out, scratch):
        (boxes, pixels), taps, (sent, results), factors, *barriers = scratch
        a_ready, a_free, w_ready, w_free, s_ready = barriers
        group, first = lax.axis_index("group"), lax.axis_index("core")
        member = lax.axis_index("pair") if variant.cluster > 1 else int32(0)
        turns = lax.div(items - first + (clusters - 1), int32(clusters))
        rings = ((a_free, a_stages, steps), (w_free, w_stages, 3 * steps))

        def tile_of(turn):
            """(frame, row, column, block of channels) of a tile, frames varying fastest of all."""
            item = first + turn * clusters
            tile = lax.div(item, int32(splits)) * variant.cluster + member
            spot = lax.div(tile, int32(frames))
            row, column = lax.div(spot, int32(across)), lax.rem(spot, int32(across))
            split = lax.rem(item, int32(splits))
            return lax.rem(tile, int32(frames)), row * rows, column * columns, split

        def copy():
            plgpu.copy_gmem_to_smem(scale, factors, s_ready)

            @pl.loop(0, turns)
            def _(turn):
                frame, row, column, split = tile_of(turn)
                out_block = pl.ds(split * CHANNELS, CHANNELS)

                @pl.loop(0, steps)
                def _(step):
                    done = turn * steps + step
                    slot = lax.rem(done, int32(a_stages))
                    # One release more than there were uses has been given, see ``compute``.
                    pl.when(done >= a_stages - 1)(lambda: plgpu.barrier_wait(a_free.at[slot]))
                    shift, block = lax.div(step, int32(blocks)), lax.rem(step, int32(blocks))
                    box = x.at[
                        frame + lax.div(shift, int32(3)),
                        pl.ds(row - 1, rows + 2),
                        pl.ds(column - 1 + lax.rem(shift, int32(3)), columns),
                        pl.ds(block * variant.depth, variant.depth),
                    ]
                    plgpu.copy_gmem_to_smem(box, boxes.at[slot], a_ready.at[slot])
                    for tap in range(3):
                        used = done * 3 + tap
                        slot = lax.rem(used, int32(w_stages))
                        pl.when(used >= w_stages - 1)(
                            lambda slot=slot: plgpu.barrier_wait(w_free.at[slot])
                        )
                        plgpu.copy_gmem_to_smem(
                            weights.at[step * 3 + tap, out_block],
                            taps.at[slot],
                            w_ready.at[slot],
                            collective_axes="pair" if variant.cluster > 1 else None,
                        )

            # A block stays until the other one of its pair has sent its last releases.
            @pl.when(turns > 0)
            def _():
                for free, count, uses in rings:
                    for stage in range(count):
                        slot = lax.rem(turns * uses + stage, int32(count))
                        plgpu.barrier_wait(free.at[slot])

        def multiply(acc, turn):
            """Each product releases the buffers of the one before, also before the first."""

            def body(step, carry):
                done = turn * steps + step
                slot = lax.rem(done, int32(a_stages))
                plgpu.barrier_wait(a_ready.at[slot])
                for tap in range(3):
                    used = done * 3 + tap
                    w_slot = lax.rem(used, int32(w_stages))
                    plgpu.barrier_wait(w_ready.at[w_slot])
                    lines = pl.ds(group * own + tap * columns, own)
                    plgpu.wgmma(acc, pixels.at[slot, lines], taps.at[w_slot].T)
                    plgpu.wgmma_wait(1)
                    before = lax.rem(used + (w_stages - 1), int32(w_stages))
                    plgpu.barrier_arrive(w_free.at[before])
                    if tap == 0:
                        before = lax.rem(done + (a_stages - 1), int32(a_stages))
                        plgpu.barrier_arrive(a_free.at[before])
                return carry

            lax.fori_loop(0, steps, body, int32(0))
            return acc[...]

        def compute():
            plgpu.barrier_wait(s_ready)

            @pl.loop(0, turns)
            def _(turn):
                frame, row, column, split = tile_of(turn)
                total = pl.run_scoped(lambda acc: multiply(acc, turn), plgpu.ACC((own, CHANNELS)))
                factor = plgpu.layout_cast(factors[split], plgpu.Layout.WGMMA.reduce(0))
                total = total * lax.broadcast_in_dim(factor, total.shape, [1])
                total = total.astype(BF16)
                lines = PIXELS // columns
                for i in range(own // PIXELS):
                    line = row + group * (own // columns) + i * lines
                    for half in range(CHANNELS // HALF):
                        slot = (i * (CHANNELS // HALF) + half) % variant.out_stages
                        plgpu.wait_smem_to_gmem(variant.out_stages - 1, wait_read_only=True)
                        part = lax.slice(
                            total, (i * PIXELS, half * HALF), ((i + 1) * PIXELS, (half + 1) * HALF)
                        )
                        results.at[group, slot][...] = part
                        plgpu.commit_smem()
                        channels = pl.ds(split * CHANNELS + half * HALF, HALF)
                        there = out.at[frame, pl.ds(line, lines), pl.ds(column, columns), channels]
                        plgpu.copy_smem_to_gmem(sent.at[group, slot], there)

            @pl.when(turns > 0)
            def _():
                for free, count, uses in rings:
                    last = turns * uses + (count - 1)
                    plgpu.barrier_arrive(free.at[lax.rem(last, int32(count))])

            plgpu.wait_smem_to_gmem(0)

        @pl.when(group < groups)
        def _():
            plgpu.set_max_registers(variant.registers[0], action="increase")
            compute()

        @pl.when(group == groups)
        def _():
            plgpu.set_max_registers(variant.registers[1], action="decrease")
            copy()

    def ring(count, arrivals=1):
        return plgpu.Barrier(num_barriers=count, num_arrivals=arrivals)

    w_free = ring(w_stages, groups)
    if variant.cluster > 1:
        w_free = plgpu.ClusterBarrier(
            collective_axes=("pair",), num_barriers=w_stages, num_arrivals=groups
        )
    box = (rows + 2) * columns
    staged = (groups, variant.out_stages)
    scratch = (
        _two_views(
            (a_stages, rows + 2, columns, variant.depth),
            (a_stages, box, variant.depth),
            variant.dtype,
        ),
        _tiled((w_stages, CHANNELS, variant.depth), variant.dtype),
        _two_views((*staged, PIXELS // columns, columns, HALF), (*staged, PIXELS, HALF), BF16),
        plgpu.SMEM((splits, CHANNELS), jnp.float32),
        ring(a_stages),
        ring(a_stages, groups),
        ring(w_stages),
        w_free,
        plgpu.Barrier(),
    )
    paired = {"cluster": (2,), "cluster_names": ("pair",)} if variant.cluster > 1 else {}
    kernel.__name__ = "convolution"
    (result,) = plgpu.kernel(
        kernel,
        out_type=[jax.ShapeDtypeStruct((frames, height, width, out_channels), BF16)],
        scratch_types=[scratch],
        grid=(clusters,),
        grid_names=("core",),
        num_threads=groups + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        **paired,
    )(x, weights, scale.reshape(splits, CHANNELS))
    return result
