"""Norm, rotation and gather of queries, keys and values for NVIDIA GPUs, in Pallas (Triton).

A program takes one head of some attention rows (``to_windows``) or of some tokens
(``from_windows``, the gradient): it loads what it needs by the plan's indices, computes in float32
and writes each number once. A channel's neighbour, with which it is rotated, is loaded a second
time, which the cache serves. ``interpret`` runs the kernels without a GPU.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.pallas import pl
from skipsr_jax.kernels.pallas import triton as plgpu
from skipsr_jax.kernels.qkv_windows.problem import QKVWindowsProblem
from skipsr_jax.kernels.target import Target, gpu_refusal
from skipsr_jax.types import Float, Int

ROWS = 16
"""Attention rows or tokens of a program."""
WARPS = 4
_MOST_NUMBERS = 2**31
"""Triton's pointers are counted in 32 bits."""
Rotation = tuple[Float[Array, "#b n pairs"], Float[Array, "#b n pairs"]]
"""Cosines and sines of the angles of a token's first pairs of neighbouring channels."""


def supported(problem: QKVWindowsProblem, target: Target) -> str | None:
    """None when the kernels can run this problem, else the reason."""
    refusal = gpu_refusal(problem.dtype, target, "it needs compute capability 8.0", (8, 0))
    if refusal is None and problem.head_dim & (problem.head_dim - 1):
        refusal = f"head_dim must be a power of two, not {problem.head_dim}"
    if refusal is None and problem.numbers >= _MOST_NUMBERS:
        refusal = f"it finds fewer than {_MOST_NUMBERS} numbers, not {problem.numbers}"
    return refusal


class _Tile:
    """Some rows of one pack and the channels of one head, within a kernel."""

    def __init__(self, problem: QKVWindowsProblem):
        self.problem, self.head = problem, pl.program_id(0)
        self.block, self.pack = pl.program_id(1), pl.program_id(2)
        self.row = self.block * ROWS + jnp.arange(ROWS)
        self.channel = jnp.arange(problem.head_dim)
        self.neighbour = self.channel ^ 1
        self.shape = ROWS, problem.head_dim

    def at(self, ref: Any, row: Array, kind: int, channel: Array) -> Any:
        """Rows of ``ref`` (b, rows, kinds a p) and channels of this head of one of the kinds."""
        width = self.problem.head_dim
        column = (kind * self.problem.heads + self.head) * width + channel
        rows = jnp.broadcast_to(row[:, None], self.shape)
        pack = jnp.full(self.shape, self.pack)
        return ref.at[pack, rows, jnp.broadcast_to(column[None], self.shape)]

    def load(
        self, ref: Any, row: Array, inside: Array, kind: int, channel: Array
    ) -> Float[Array, "rows p"]:
        mask = jnp.broadcast_to(inside[:, None], self.shape)
        at = self.at(ref, row, kind, channel)
        return plgpu.load(at, mask=mask, other=0).astype(jnp.float32)

    def store(self, ref: Any, inside: Array, kind: int, value: Float[Array, "rows p"]) -> None:
        mask = jnp.broadcast_to(inside[:, None], self.shape)
        at = self.at(ref, self.row, kind, self.channel)
        plgpu.store(at, value.astype(ref.dtype), mask=mask)

    def rotation(self, cos: Any, sin: Any, token: Array, inside: Array) -> tuple[Array, Array]:
        """(cos, sin) of each row and channel; the sine's sign is that of the neighbour's part."""
        pairs = cos.shape[2]
        pair = jnp.broadcast_to((self.channel // 2)[None], self.shape)
        mask = inside[:, None] & (pair < pairs)
        rows = jnp.broadcast_to(token[:, None], self.shape)
        pack = jnp.full(self.shape, self.pack if cos.shape[0] > 1 else 0)
        sign = jnp.where(self.channel % 2 == 0, -1.0, 1.0)[None]
        at = pack, rows, pair
        return (
            plgpu.load(cos.at[at], mask=mask, other=1),
            plgpu.load(sin.at[at], mask=mask, other=0) * sign,
        )

    def factor(self, x: Float[Array, "rows p"]) -> Float[Array, "rows 1"]:
        mean_square = jnp.sum(x * x, axis=1) / self.problem.head_dim
        return jax.lax.rsqrt(mean_square + self.problem.eps)[:, None]

    def index(self, ref: Any, padding: int) -> tuple[Array, Array]:
        """The rows' entries in ``ref`` (b, rows), and which of the rows there are."""
        there = self.row < ref.shape[1]
        at = ref.at[jnp.full_like(self.row, self.pack), self.row]
        return plgpu.load(at, mask=there, other=padding), there


def _to_windows_kernel(
    projected, text, weights, cos, sin, gather, *out, problem: QKVWindowsProblem
):
    tile = _Tile(problem)
    tokens, texts = projected.shape[1], text.shape[1]
    source, there = tile.index(gather, tokens + texts)
    of_video = source < tokens
    of_text = (source >= tokens) & (source < tokens + texts)
    cosine, sine = tile.rotation(cos, sin, source, of_video)
    for kind, ref in enumerate(out):
        rows = tile.load(projected, source, of_video, kind, tile.channel)
        if kind < 2:
            factor, own = tile.factor(rows), jnp.full_like(tile.channel, kind)
            weight, other_weight = (
                plgpu.load(weights.at[own, channel])[None] * factor
                for channel in (tile.channel, tile.neighbour)
            )
            neighbours = tile.load(projected, source, of_video, kind, tile.neighbour)
            rows = rows * weight * cosine + neighbours * other_weight * sine
        rows += tile.load(text, source - tokens, of_text, kind, tile.channel)
        tile.store(ref, there, 0, rows)


def to_windows(
    projected: Float[Array, "b n i"],
    text: Float[Array, "b m i"],
    weights: Float[Array, "two p"],
    rotation: Rotation,
    gather: Int[Array, "b s"],
    problem: QKVWindowsProblem,
    interpret: bool = False,
) -> list[Float[Array, "b s a p"]]:
    """Queries, keys and values as attention rows; rows of padding are zero.

    Args:
      projected: of stored tokens, i = 3 a p.
      text: queries, keys and values of text tokens as they are to be, i = 3 a p.
      weights: of the norms of queries and of keys, float32.
      rotation: of stored tokens, float32; channels beyond its pairs are not rotated.
      gather: attention row -> row of (projected ++ text), n + m where the row is padding.
      problem: call it only where ``supported`` gives None.
    """
    packs, rows = gather.shape
    width = problem.heads * problem.head_dim
    shape = jax.ShapeDtypeStruct((packs, rows, width), problem.dtype)
    found = pl.pallas_call(
        functools.partial(_to_windows_kernel, problem=problem),
        out_shape=[shape] * 3,
        grid=(problem.heads, -(-rows // ROWS), packs),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="qkv_to_windows",
    )(projected, text.astype(problem.dtype), weights, *rotation, gather)
    heads = packs, rows, problem.heads, problem.head_dim
    return [array.reshape(heads) for array in found]


def _from_windows_kernel(
    projected, weights, cos, sin, video_rows, dq, dk, dv, out, d_weights,
    *, problem: QKVWindowsProblem,
):  # fmt: skip
    tile = _Tile(problem)
    rows = dq.shape[1]
    source, there = tile.index(video_rows, rows)
    stored = source < rows
    cosine, sine = tile.rotation(cos, sin, tile.row, there)
    for kind, ref in enumerate((dq, dk, dv)):
        gradient = tile.load(ref, source, stored, 0, tile.channel)
        if kind < 2:
            neighbours = tile.load(ref, source, stored, 0, tile.neighbour)
            gradient = gradient * cosine - neighbours * sine
            x = tile.load(projected, tile.row, stored, kind, tile.channel)
            factor, own = tile.factor(x), jnp.full_like(tile.channel, kind)
            x *= factor
            at = jnp.full_like(own, tile.pack), jnp.full_like(own, tile.block)
            at = *at, jnp.full_like(own, tile.head), own, tile.channel
            plgpu.store(d_weights.at[at], jnp.sum(gradient * x, axis=0))
            gradient *= plgpu.load(weights.at[own, tile.channel])[None]
            along = jnp.sum(gradient * x, axis=1)[:, None] / problem.head_dim
            gradient = (gradient - x * along) * factor
        tile.store(out, there, kind, gradient)


def from_windows(
    projected: Float[Array, "b n i"],
    weights: Float[Array, "two p"],
    rotation: Rotation,
    video_rows: Int[Array, "b n"],
    gradients: list[Float[Array, "b s a p"]],
    problem: QKVWindowsProblem,
    interpret: bool = False,
) -> tuple[Float[Array, "b n i"], Float[Array, "two p"]]:
    """The gradients of ``projected`` and ``weights``, given those of what ``to_windows`` returns.

    Args:
      video_rows: stored token -> attention row, s where the token is padding.
      others: as ``to_windows``. Tokens that are padding may hold any numbers.
    """
    packs, tokens, width = projected.shape
    blocks = -(-tokens // ROWS)
    of_blocks = packs, blocks, problem.heads, *weights.shape
    merged = [array.reshape(*array.shape[:2], -1) for array in gradients]
    found, of_weights = pl.pallas_call(
        functools.partial(_from_windows_kernel, problem=problem),
        out_shape=[
            jax.ShapeDtypeStruct((packs, tokens, width), problem.dtype),
            jax.ShapeDtypeStruct(of_blocks, jnp.float32),
        ],
        grid=(problem.heads, blocks, packs),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS),
        interpret=interpret,
        name="qkv_from_windows",
    )(projected, weights, *rotation, video_rows, *merged)
    return found, of_weights.sum(axis=(0, 1, 2))
