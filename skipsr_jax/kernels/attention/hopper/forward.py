"""The forward kernel for Hopper: one block of threads for each head and tile of queries.

Two warpgroups compute 64 queries each, a third copies keys and values. The two take turns on the
tensor cores: while one has its softmax to do, the other adds the values of one block of keys and
forms the scores of the next (Shah et al. 2024, FlashAttention-3, section 3.1). Exponents are in
base 2. Keys outside the segment are masked, and values there set to zero, in the first and the last
block alone.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from skipsr_jax.kernels.attention.gpu_tiled import LOG2_E
from skipsr_jax.kernels.attention.gpu_tiles import (
    SEGMENT_BEGIN,
    SEGMENT_END,
    SEGMENT_START,
    TILE_ROWS,
    TILE_START,
)
from skipsr_jax.kernels.attention.hopper.parts import (
    GROUP_ROWS,
    GROUPS,
    STAGES,
    WGMMA,
    Stream,
    between,
    copy_streams,
    launch,
    own_rows,
    slot_of,
    spread,
    steps_of,
    swizzled,
    write_rows,
    zero_outside,
    zeros,
)
from skipsr_jax.types import Float, Int

KEYS = 128  # of one block


def _row_values(value: float) -> Array:
    """A float32 for each query of a warpgroup."""
    return plgpu.layout_cast(jnp.full((GROUP_ROWS,), value, jnp.float32), WGMMA.reduce(1))


def _compute(head, tile, done, table, q, k, v, out, lse, *, scale, held, streams):
    """What a computing warpgroup does; ``done`` blocks went by before."""
    del k, v
    group, turn = lax.axis_index("group"), held["turn"]
    own = own_rows(table, tile, group)
    steps = steps_of(table, tile, KEYS)
    begin, end = (
        table[tile, column] - table[tile, SEGMENT_START] for column in (SEGMENT_BEGIN, SEGMENT_END)
    )
    q_mine = held["q"].at[group]
    # The first turn on the tensor cores is the first warpgroup's.
    pl.when((group == 1) & (done == 0))(lambda: plgpu.barrier_arrive(turn.at[0]))
    plgpu.barrier_wait(held["q_ready"].at[group])
    shape = (GROUP_ROWS, KEYS)

    def block(name, step):
        """Slot, and memory, of a block that has arrived."""
        slot = slot_of(done + step)
        plgpu.barrier_wait(streams[name]["ready"].at[slot])
        return streams[name]["shared"].at[slot]

    def values_at(step):
        return streams["v"]["shared"].at[slot_of(done + step)]

    def release(name, step):
        plgpu.barrier_arrive(streams[name]["free"].at[slot_of(done + step)])

    def masked(scores, step):
        inside = between(begin - step * KEYS, end - step * KEYS, shape, 1)
        return jnp.where(inside, scores, -jnp.inf)

    def softmax(scores, peak, total):
        new_peak = jnp.maximum(peak, scores.max(axis=1) * (scale * LOG2_E))
        keep = jnp.exp2(peak - new_peak)
        weights = jnp.exp2(scores * (scale * LOG2_E) - spread(new_peak, shape, 0))
        return weights.astype(q.dtype), new_peak, total * keep + weights.sum(axis=1), keep

    def scope(scores_acc, out_acc):
        def advance(step, carry, last):
            weights, peak, total = carry
            keys = block("k", step)
            scores_acc[...] = zeros(shape)
            plgpu.barrier_wait(turn.at[group])
            plgpu.wgmma(out_acc, weights, values_at(step - 1))
            plgpu.wgmma(scores_acc, q_mine, keys.T)
            plgpu.barrier_arrive(turn.at[1 - group])
            scores = scores_acc[...]
            release("v", step - 1)
            release("k", step)
            if last:
                plgpu.barrier_arrive(held["q_free"])
                scores = masked(scores, step)
            weights, peak, total, keep = softmax(scores, peak, total)
            so_far = out_acc[...]
            out_acc[...] = so_far * spread(keep, so_far.shape, 0)
            block("v", step)
            return weights, peak, total

        first = jnp.int32(0)
        plgpu.wgmma(scores_acc, q_mine, block("k", first).T)
        scores = masked(scores_acc[...], first)
        release("k", first)
        pl.when(steps == 1)(lambda: plgpu.barrier_arrive(held["q_free"]))
        carry = softmax(scores, _row_values(-jnp.inf), _row_values(0.0))[:3]
        zero_outside(block("v", first), begin, end)
        carry = lax.fori_loop(1, steps - 1, functools.partial(advance, last=False), carry)
        ended = jnp.maximum(steps - 1, 1)
        carry = lax.fori_loop(ended, steps, functools.partial(advance, last=True), carry)
        weights, peak, total = carry
        zero_outside(values_at(steps - 1), first, end - (steps - 1) * KEYS)
        plgpu.wgmma(out_acc, weights, values_at(steps - 1))
        found = out_acc[...]
        release("v", steps - 1)
        return found, peak, total

    accumulators = (plgpu.ACC(shape), plgpu.ACC((GROUP_ROWS, q.shape[-1])))
    found, peak, total = pl.run_scoped(scope, *accumulators)
    found = (found * spread(1 / total, found.shape, 0)).astype(q.dtype)
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)  # what the tile before wrote
    if lse is not None:
        held["lse"][group] = peak + jnp.log2(total)
        plgpu.commit_smem()
        part = pl.ds(group * GROUP_ROWS, GROUP_ROWS)
        plgpu.copy_smem_to_gmem(held["lse"].at[group], lse.at[head, tile, part])
    whole, tail = held["out"]
    write_rows(found, out.at[:, head], own, whole.at[group], tail.at[group])
    return steps


def _copy(head, tile, done, table, q, k, v, out, lse, *, held, streams):
    """What the copying warpgroup does: the tile's queries, keys and values of the segment."""
    del out, lse
    pl.when(done > 0)(lambda: plgpu.barrier_wait(held["q_free"]))
    for group in range(GROUPS):
        rows = pl.ds(table[tile, TILE_START] + group * GROUP_ROWS, GROUP_ROWS)
        plgpu.copy_gmem_to_smem(q.at[rows, head], held["q"].at[group], held["q_ready"].at[group])
    start = table[tile, SEGMENT_START]

    def stream(name, source):
        return Stream(
            block=lambda step: source.at[pl.ds(start + step * KEYS, KEYS), head], **streams[name]
        )

    steps = steps_of(table, tile, KEYS)
    copy_streams((stream("k", k), stream("v", v)), steps, done)
    return steps


def forward(
    table: Int[Array, "t c"],
    q: Float[Array, "s a p"],
    k: Float[Array, "s a p"],
    v: Float[Array, "s a p"],
    *,
    scale: float,
    with_lse: bool,
) -> tuple[Float[Array, "s a p"], Float[Array, "a t r"] | None]:
    """Output, unwritten in rows of no segment; log2 of the sum of exponents by tile.

    The latter is without meaning in rows of a tile that are not its segment's.
    """
    heads, head_dim = q.shape[1:]
    free = plgpu.Barrier(num_barriers=STAGES, num_arrivals=GROUPS)
    stream = {
        "shared": swizzled((STAGES, KEYS, head_dim), q.dtype),
        "ready": plgpu.Barrier(num_barriers=STAGES),
        "free": free,
    }
    held = {
        "q": swizzled((GROUPS, GROUP_ROWS, head_dim), q.dtype),
        "q_ready": plgpu.Barrier(num_barriers=GROUPS),
        "turn": plgpu.Barrier(num_barriers=GROUPS),
        "q_free": plgpu.Barrier(num_arrivals=GROUPS),
        # One memory under two layouts.
        "out": plgpu.RefUnion(
            swizzled((GROUPS, GROUP_ROWS, head_dim), q.dtype),
            plgpu.SMEM((GROUPS, GROUP_ROWS, head_dim), q.dtype),
        ),
        "lse": plgpu.SMEM((GROUPS, GROUP_ROWS), jnp.float32),
    }
    out_type = [jax.ShapeDtypeStruct(q.shape, q.dtype)]
    if with_lse:
        by_tile = (heads, table.shape[0], TILE_ROWS)
        out_type.append(jax.ShapeDtypeStruct(by_tile, jnp.float32))

    def with_or_without(role):
        def run(*refs, **scratch):
            arrays = refs if with_lse else (*refs, None)
            return role(*arrays, **scratch)

        return run

    found = launch(
        with_or_without(functools.partial(_compute, scale=scale)),
        with_or_without(_copy),
        (table, q, k, v),
        out_type,
        {"held": held, "streams": {"k": dict(stream), "v": dict(stream)}},
        heads,
    )
    return found[0], found[1] if with_lse else None
