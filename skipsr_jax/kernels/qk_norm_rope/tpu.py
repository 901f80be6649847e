"""Norm and rotation of queries and keys for TPU, in Pallas (Mosaic): one pass over memory.

A step of the grid takes some tokens of one head, whose channels are one column of 128 lanes, and
writes them where the head's shard has them. The derivative is the reference's.

Mosaic kernels are not partitioned by the compiler: on more than one chip, call it in ``shard_map``.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import tpu as pltpu
from skipsr_jax.kernels.qk_norm_rope import xla
from skipsr_jax.kernels.qk_norm_rope.problem import QKNormRopeProblem
from skipsr_jax.kernels.target import Target
from skipsr_jax.types import Float

LANES = 128
ROWS = 1024
"""Tokens of a step: 256 kB in bfloat16, long enough to hide a step's start."""


def supported(problem: QKNormRopeProblem, target: Target) -> str | None:
    """None when the TPU kernel can run this problem, else the reason."""
    if target.platform != "tpu":
        return f"it needs a TPU, and this is {target.platform}"
    if problem.head_dim != LANES:
        return f"head_dim must be {LANES}, not {problem.head_dim}"
    return None


def _kernel(x_ref, weights_ref, cos_ref, sin_ref, out_ref, *, problem: QKNormRopeProblem):
    column = pl.program_id(2)
    is_key = column >= problem.heads

    @pl.when(column < 2 * problem.heads)
    def _():
        x = x_ref[...].astype(jnp.float32)
        factor = jax.lax.rsqrt(jnp.mean(x * x, axis=1, keepdims=True) + problem.eps)
        x = x * factor * jnp.where(is_key, weights_ref[1:2], weights_ref[0:1])
        even = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) % 2 == 0
        after, before = pltpu.roll(x, LANES - 1, 1), pltpu.roll(x, 1, 1)
        rotated = jnp.where(even, -after, before)
        out_ref[...] = (x * cos_ref[...] + rotated * sin_ref[...]).astype(out_ref.dtype)

    @pl.when(column >= 2 * problem.heads)
    def _():
        out_ref[...] = x_ref[...].astype(out_ref.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _run(projected, weights, angles, problem, interpret):
    packs, tokens, width = projected.shape
    heads, own = problem.heads, problem.heads // problem.shards
    rows = min(ROWS, -(-tokens // 32) * 32)
    angles = jnp.pad(angles, ((0, 0), (0, 0), (0, LANES // 2 - angles.shape[2])))
    angles = jnp.repeat(angles, 2, axis=2)

    def to_shard(b, i, column):
        kind, head = column // heads, column % heads
        return head // own, b, i, kind * own + head % own

    many = len(angles) > 1
    of_tokens = pl.BlockSpec((None, rows, LANES), lambda b, i, column: (b if many else 0, i, 0))
    shape = (problem.shards, packs, tokens, width // problem.shards)
    return pl.pallas_call(
        functools.partial(_kernel, problem=problem),
        grid=(packs, -(-tokens // rows), 3 * heads),
        in_specs=[
            pl.BlockSpec((None, rows, LANES), lambda b, i, column: (b, i, column)),
            pl.BlockSpec((2, LANES), lambda b, i, column: (0, 0)),
            of_tokens,
            of_tokens,
        ],
        out_specs=pl.BlockSpec((None, None, rows, LANES), to_shard),
        out_shape=jax.ShapeDtypeStruct(
            shape, problem.dtype, manual_axis_type=jax.typeof(projected).manual_axis_type
        ),
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name="qk_norm_rope",
    )(projected, weights, jnp.cos(angles), jnp.sin(angles))


def _forward(projected, weights, angles, problem, interpret):
    return _run(projected, weights, angles, problem, interpret), (projected, weights, angles)


def _backward(problem, interpret, residuals, gradient):
    del interpret
    return jax.vjp(lambda *arrays: xla.qk_norm_rope(*arrays, problem), *residuals)[1](gradient)


_run.defvjp(_forward, _backward)


def qk_norm_rope(
    projected: Float[Array, "b n i"],
    weights: Float[Array, "two p"],
    angles: Float[Array, "#b n pairs"],
    problem: QKNormRopeProblem,
    interpret: object = False,
) -> Float[Array, "shards b n i_shard"]:
    """See ``api.qk_norm_rope``; call it only where ``supported`` gives None.

    ``interpret`` runs the kernel without a TPU, for tests.
    """
    return _run(projected, weights, angles, problem, interpret)
