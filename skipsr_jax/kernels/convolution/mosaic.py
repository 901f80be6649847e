"""The convolution in Pallas (Mosaic GPU) for Hopper, with fp8 or bfloat16 products.

Numbers are e4m3 (or bfloat16), sums float32, results bfloat16 after a factor and a bias for each
channel.

A block of threads makes a tile of one frame, or of several small ones. For each frame, shift along
the width and block of channels, the copy engine fetches the tile's pixels and a row more above and
below, which serve three taps; it fills in the zeros at the frame's edges. The weights of a tap come
one by one; with ``cluster=2`` two blocks fetch one half each for both. One warpgroup copies, the
others multiply.

``benchmarks.convolution`` compares it with cuDNN.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from skipsr_jax.kernels.convolution.weights import CHANNELS, Taps
from skipsr_jax.kernels.convolution.xla import ConvolutionProblem, Padding
from skipsr_jax.kernels.pallas import mosaic_gpu as plgpu
from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.target import Target, current_cores, gpu_refusal
from skipsr_jax.types import DType, Float

FP8, BF16 = jnp.float8_e4m3fn, jnp.bfloat16
PIXELS = 64  # rows of a product of the tensor cores
HALF = 64  # channels of a bfloat16 result in 128 bytes


@dataclasses.dataclass(frozen=True)
class Variant:
    """How the kernel works.

    Attributes:
      rows, columns: pixels of a tile in a frame. Tiles need not divide the frame.
      images: frames of a tile, one after the other of a clip, or of one clip after the other where
        clips have one frame.
      groups: warpgroups that compute, with images * rows * columns / groups pixels each.
      pixel_stages, weight_stages: buffers of the copied pixels and of the weights of a tap.
      cluster: blocks that share the weights, 1 or 2.
      out_stages: buffers of a warpgroup for results, of 64 pixels and 64 channels.
      dtype: of input and weights.
      registers: of a thread that computes, and of one that copies.
    """

    rows: int = 16
    columns: int = 16
    images: int = 1
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
        return self.images * self.rows * self.columns // self.groups

    @property
    def part_pixels(self) -> int:
        """Pixels of a product: of one image, because between images there are two rows more."""
        return min(self.group_pixels, self.rows * self.columns)


FRAMES = Variant(rows=24, groups=3, pixel_stages=2, registers=(160, 32))
"""For whole frames that fill many of its tiles."""
BLOCKS = Variant()
"""For frames of a tile, and for those that fill few."""
SMALL_BLOCKS = Variant(rows=8, columns=8, images=4)
"""For frames of at most 8 x 8 pixels."""


def supported(problem: ConvolutionProblem, target: Target) -> str | None:
    """None when the kernel can run this problem, else the reason."""
    needs = "its instructions are those of compute capability 9.x"
    refused = gpu_refusal(problem.dtype, target, needs, (9, 0), (10, 0))
    if refused is not None:
        return refused
    if problem.dtype != BF16:
        return f"its results are bfloat16, not {problem.dtype}"
    if problem.devices > 1:
        return f"the frames are shared by {problem.devices} devices"
    odd = [c for c in (problem.features_in, problem.features_out) if c % CHANNELS]
    return f"it takes multiples of {CHANNELS} channels, not {odd[0]}" if odd else None


def variant_for(clips: int, frames: int, height: int, width: int, features_out: int) -> Variant:
    """The variant for results of this size: the one of which a core computes the fewest pixels."""
    if max(height, width) <= SMALL_BLOCKS.rows and clips * frames > 1:
        return SMALL_BLOCKS

    def pixels_of_a_core(variant: Variant) -> int:
        tiles = -(-height // variant.rows) * -(-width // variant.columns)
        items = clips * frames * tiles * (features_out // CHANNELS)
        return -(-items // current_cores()) * variant.rows * variant.columns

    return min(FRAMES, BLOCKS, key=pixels_of_a_core)


def convolve_taps(
    x: Float[Array, "b f h w i"],
    taps: Taps,
    bias: Float[Array, " o"],
    padding: Padding,
    dtype: DType,
) -> Float[Array, "b f_out h_out w_out o"]:
    """See ``api.convolve``."""
    del dtype  # bfloat16, see ``supported``
    clips, frames, height, width = x.shape[:4]
    height, width = (n - 2 + 2 * size for n, size in zip((height, width), padding, strict=True))
    variant = variant_for(clips, frames - 2, height, width, taps.values.shape[1])
    return convolve(x, taps.values, taps.scale, bias, variant, padding)


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


def convolve(
    x: Float[Array, "b f h w i"],
    weights: Float[Array, "taps o depth"],
    scale: Float[Array, " o"],
    bias: Float[Array, " o"],
    variant: Variant,
    padding: Padding = (1, 1),
) -> Float[Array, "b f_out h_out w_out o"]:
    """The convolution with weights in order of use, as bfloat16: f_out = f - 2.

    ``scale``, ``bias``: of each channel of the result. Raises ValueError where the variant cannot.
    """
    clips, frames, height, width, in_channels = x.shape
    frames, out_channels = frames - 2, weights.shape[1]
    height, width = height - 2 + 2 * padding[0], width - 2 + 2 * padding[1]
    rows, columns, images = variant.rows, variant.columns, variant.images
    groups, own, part = variant.groups, variant.group_pixels, variant.part_pixels
    wrong = own % part or part % PIXELS or PIXELS % columns or columns % 8
    if wrong or in_channels % variant.depth or out_channels % CHANNELS:
        raise ValueError(f"{variant} cannot convolve {x.shape} to {out_channels} channels")
    if images > 1 and (rows * columns != part or clips * frames == 1):
        raise ValueError(f"{variant} takes several whole images a warpgroup, not one of {x.shape}")
    blocks = in_channels // variant.depth
    steps, halves = 9 * blocks, CHANNELS // HALF
    splits = out_channels // CHANNELS
    down, across = -(-height // rows), -(-width // columns)
    along_clips = images > 1 and frames == 1
    steps_clip, steps_frame = (images, 1) if along_clips else (1, images)
    turns_clip, turns_frame = -(-clips // steps_clip), -(-frames // steps_frame)
    clusters = current_cores() // variant.cluster
    tiles = turns_clip * turns_frame * down * across
    items = splits * -(-tiles // variant.cluster)
    a_stages, w_stages = variant.pixel_stages, variant.weight_stages
    int32 = jnp.int32

    def kernel(x, weights, scale_bias, out, scratch):
        (boxes, pixels), taps, (sent, results), constants, *barriers = scratch
        a_ready, a_free, w_ready, w_free, s_ready = barriers
        group, first = lax.axis_index("group"), lax.axis_index("core")
        member = lax.axis_index("pair") if variant.cluster > 1 else int32(0)
        turns = lax.div(items - first + (clusters - 1), int32(clusters))
        rings = ((a_free, a_stages, steps), (w_free, w_stages, 3 * steps))

        def tile_of(turn):
            """(clip, frame, row, column, block of channels) of a tile.

            Frames vary fastest, and rows slowest: what a last pair has too much is outside.
            """
            item = first + turn * clusters
            split, spot = lax.rem(item, int32(splits)), lax.div(item, int32(splits))
            spot = spot * variant.cluster + member
            found = []
            for count in (turns_frame, across, turns_clip):
                found.append(lax.rem(spot, int32(count)))
                spot = lax.div(spot, int32(count))
            frame, column, clip = found
            return clip * steps_clip, frame * steps_frame, spot * rows, column * columns, split

        def copy():
            plgpu.copy_gmem_to_smem(scale_bias, constants, s_ready)

            @pl.loop(0, turns)
            def _(turn):
                clip, frame, row, column, split = tile_of(turn)
                out_block = pl.ds(split * CHANNELS, CHANNELS)

                @pl.loop(0, steps)
                def _(step):
                    done = turn * steps + step
                    slot = lax.rem(done, int32(a_stages))
                    # One release more than there were uses has been given, see ``compute``.
                    pl.when(done >= a_stages - 1)(lambda: plgpu.barrier_wait(a_free.at[slot]))
                    shift, block = lax.div(step, int32(blocks)), lax.rem(step, int32(blocks))
                    frame_read = frame + lax.div(shift, int32(3))
                    if along_clips:
                        image = pl.ds(clip, images), frame_read
                    else:
                        image = clip, frame_read if images == 1 else pl.ds(frame_read, images)
                    box = x.at[
                        *image,
                        pl.ds(row - padding[0], rows + 2),
                        pl.ds(column - padding[1] + lax.rem(shift, int32(3)), columns),
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

        def multiply(accs, turn):
            """Each product releases the buffers of the one before, also before the first."""

            def body(step, carry):
                done = turn * steps + step
                slot = lax.rem(done, int32(a_stages))
                plgpu.barrier_wait(a_ready.at[slot])
                for tap in range(3):
                    used = done * 3 + tap
                    w_slot = lax.rem(used, int32(w_stages))
                    plgpu.barrier_wait(w_ready.at[w_slot])
                    for i, acc in enumerate(accs):
                        at = group * own + tap * columns
                        if images > 1:
                            at = ((group * len(accs) + i) * (rows + 2) + tap) * columns
                        plgpu.wgmma(acc, pixels.at[slot, pl.ds(at, part)], taps.at[w_slot].T)
                    plgpu.wgmma_wait(len(accs))
                    before = lax.rem(used + (w_stages - 1), int32(w_stages))
                    plgpu.barrier_arrive(w_free.at[before])
                    if tap == 0:
                        before = lax.rem(done + (a_stages - 1), int32(a_stages))
                        plgpu.barrier_arrive(a_free.at[before])
                return carry

            lax.fori_loop(0, steps, body, int32(0))
            return tuple(acc[...] for acc in accs)

        def compute():
            def of_channels(index):
                return plgpu.load(constants, (index,), layout=plgpu.Layout.WGMMA.reduce(0))

            plgpu.barrier_wait(s_ready)

            @pl.loop(0, turns)
            def _(turn):
                clip, frame, row, column, split = tile_of(turn)
                totals = pl.run_scoped(
                    lambda *accs: multiply(accs, turn),
                    *[plgpu.ACC((part, CHANNELS))] * (own // part),
                )
                lines = PIXELS // columns
                for i in range(own // PIXELS):
                    total, begin = totals[i * PIXELS // part], i * PIXELS % part
                    if images > 1:
                        image, line = group * len(totals) + i * PIXELS // part, begin // columns
                    else:
                        image, line = 0, group * (own // columns) + i * lines
                    at_clip, at_frame = (image, 0) if along_clips else (0, image)
                    for half in range(halves):
                        slot = (i * halves + half) % variant.out_stages
                        plgpu.wait_smem_to_gmem(variant.out_stages - 1, wait_read_only=True)
                        result = lax.slice(
                            total, (begin, half * HALF), (begin + PIXELS, (half + 1) * HALF)
                        )
                        at = 2 * (split * halves + half)
                        result = result * lax.broadcast_in_dim(of_channels(at), result.shape, [1])
                        result = result + lax.broadcast_in_dim(
                            of_channels(at + 1), result.shape, [1]
                        )
                        results.at[group, slot][...] = result.astype(BF16)
                        plgpu.commit_smem()
                        there = out.at[
                            clip + at_clip,
                            frame + at_frame,
                            pl.ds(row + line, lines),
                            pl.ds(column, columns),
                            pl.ds(split * CHANNELS + half * HALF, HALF),
                        ]
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
    box = (rows + 2, columns, variant.depth)
    staged = (groups, variant.out_stages)
    scratch = (
        _two_views(
            (a_stages, *((images,) if images > 1 else ()), *box),
            (a_stages, images * box[0] * columns, variant.depth),
            variant.dtype,
        ),
        _tiled((w_stages, CHANNELS, variant.depth), variant.dtype),
        _two_views((*staged, PIXELS // columns, columns, HALF), (*staged, PIXELS, HALF), BF16),
        plgpu.SMEM((2 * splits * halves, HALF), jnp.float32),
        ring(a_stages),
        ring(a_stages, groups),
        ring(w_stages),
        w_free,
        plgpu.Barrier(),
    )
    paired = {"cluster": (2,), "cluster_names": ("pair",)} if variant.cluster > 1 else {}
    kernel.__name__ = "convolution"
    pairs = jnp.stack([part.astype(jnp.float32).reshape(-1, HALF) for part in (scale, bias)], 1)
    (result,) = plgpu.kernel(
        kernel,
        out_type=[jax.ShapeDtypeStruct((clips, frames, height, width, out_channels), BF16)],
        scratch_types=[scratch],
        grid=(clusters,),
        grid_names=("core",),
        num_threads=groups + 1,
        thread_name="group",
        compiler_params=plgpu.CompilerParams(
            approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
        ),
        **paired,
    )(x, weights, pairs.reshape(-1, HALF))
    return result
