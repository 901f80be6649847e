"""Attention over tokens in shards: heads over devices, with the exchange behind computation.

An all-to-all gives each of the devices that share a pack all tokens of its own heads, and a second
one brings the results back to their tokens (Jacobs et al. 2023, DeepSpeed Ulysses, arXiv
2309.14509). Each token crosses the wire four times a block (query, key, value, result), however
many devices there are. The heads are taken in ``HEAD_CHUNKS`` chunks, each with some heads of every
device, so that one chunk travels while another is computed:

    device | project 0 | project 1    | attend 0     | attend 1     | collect 1
    links  |           | q, k, v of 0 | q, k, v of 1 | results of 0 | results of 1

By itself the compiler projects all chunks, sends all, and then attends to all: it starts a transfer
just before its result is used. ``jax.lax.optimization_barrier`` fixes the order. A barrier returns
its operands unchanged, and none of its results is there before all of its operands are.

Invariant: the result is that of one device, whatever the mesh, the mask and the bucket.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from skipsr_jax.parallel.activations import (
    CHUNK_BY_HEADS,
    CHUNK_BY_TOKENS,
    PACKS,
    TEXT_HEADS,
    TOKENS,
    ActivationSharding,
    activation_sharding,
    constrain_text,
)
from skipsr_jax.parallel.sequence import QKV, Attention, check_heads, check_shards
from skipsr_jax.types import Float

ChunkByHeads = Float[Array, "shards three b _ _ p"]
"""A head chunk after its exchange: (shards, query key value, b, tokens of a shard, heads, p)."""

HEAD_CHUNKS = 2
"""How many chunks the heads are taken in, where each device has as many heads."""


class HeadChunk(NamedTuple):
    """Heads ``start`` to ``stop`` of those of each of ``shards`` devices; all have as many."""

    shards: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        """Heads in the chunk, of all devices together."""
        return self.shards * (self.stop - self.start)

    def kernel_columns(self, kernel: Any, heads: int) -> Any:
        """The columns for queries, keys and values of these heads, out of those for all heads.

        ``kernel``: an array, or a pytree of arrays, with the output channels last.
        """

        def columns(array: Float[Array, "*i o"]) -> Float[Array, "*i chunk_o"]:
            by_head = rearrange(array, "... (three a p) -> ... three a p", three=3, a=heads)
            return rearrange(self.select(by_head), "... three a p -> ... (three a p)")

        return jax.tree.map(columns, kernel)

    def select(self, x: Float[Array, "*rows a p"]) -> Float[Array, "*rows chunk_heads p"]:
        """These heads of an array that has all of them."""
        by_shard = x.reshape(*x.shape[:-2], self.shards, -1, x.shape[-1])
        selected = by_shard[..., self.start : self.stop, :]
        return selected.reshape(*x.shape[:-2], self.count, x.shape[-1])

    def by_shard(self, qkv: QKV) -> Float[Array, "shards three b n a p"]:
        """Queries, keys and values of these heads, as they are sent: those of each device."""
        pattern = "b n (shards a) p -> shards b n a p"
        return jnp.stack([rearrange(x, pattern, shards=self.shards) for x in qkv], axis=1)


def head_chunks(packs: int, heads: int) -> list[HeadChunk]:
    """The chunks of all heads, for the devices that share a pack when there are ``packs`` packs.

    Raises UserError unless the heads divide over these devices.
    """
    shards = activation_sharding(packs).shards
    check_heads(shards, heads)
    per_device = heads // shards
    bounds = np.linspace(0, per_device, min(HEAD_CHUNKS, per_device) + 1).round().astype(int)
    return [HeadChunk(shards, *pair) for pair in itertools.pairwise(bounds.tolist())]


def project_head_chunks(
    project: Callable[[Any], Array],
    kernel: Any,
    angles: Float[Array, "#b n pairs"],
    heads: int,
    finish: Callable[[Array, Array], QKV],
    packs: int,
) -> list[ChunkByHeads]:
    """Queries, keys and values of all head chunks, on the devices that attend with their heads.

    Args:
      project: from a kernel's columns to the projection of the tokens, in token shards.
      kernel: of the projection to queries, keys and values of all ``heads``, as
        ``HeadChunk.kernel_columns`` takes it.
      angles: rotary angles of the tokens.
      finish: from the projection to some heads, and the angles, to queries, keys and values.
      packs: how many packs there are.
    """
    received, chunk_qkv = [], None
    for chunk in head_chunks(packs, heads):
        operands = chunk.kernel_columns(kernel, heads), angles
        if chunk_qkv is not None:  # send the last chunk, and only then project this one
            operands, chunk_qkv = jax.lax.optimization_barrier((operands, chunk_qkv))
            received.append(exchange(chunk_qkv))
        columns, angles = operands
        projected = project(columns)
        if received:  # the last chunk has arrived before anything else is done with this one
            projected, received[-1] = jax.lax.optimization_barrier((projected, received[-1]))
        chunk_qkv = chunk.by_shard(finish(projected, angles))
    return [*received, exchange(chunk_qkv)]


def exchange(chunk_qkv: Float[Array, "shards three b n a p"]) -> ChunkByHeads:
    """A head chunk in token shards -> all tokens of a device's own heads.

    ``chunk_qkv``: from ``HeadChunk.by_shard``. Raises UserError when heads or tokens do not divide
    over the devices that share a pack.
    """
    shards, _, packs, tokens, heads, _ = chunk_qkv.shape
    sharding = activation_sharding(packs)
    check_shards(sharding.shards, shards * heads, tokens)
    return jax.shard_map(
        lambda chunk_qkv: all_to_all(chunk_qkv, sharding),
        in_specs=sharding.spec(CHUNK_BY_TOKENS),
        out_specs=sharding.spec(CHUNK_BY_HEADS),
        check_vma=False,
    )(chunk_qkv)


def attend_by_heads(
    attention: Attention,
    chunks: Sequence[ChunkByHeads],
    text: QKV,
    layout: Any,
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """``attention`` with each device's own heads over all tokens of the packs that it shares.

    A chunk is attended to while queries, keys and values of the next one and the results of the
    last one travel.

    Args:
      chunks: all head chunks, from ``project_head_chunks``.
      text: queries, keys and values (b, m, a, p), whole on each device.
      layout: arrays with the packs as first axis, which all heads share.
    """
    sharding = activation_sharding(chunks[0].shape[2])

    def on_device(chunks: list[Array], text: QKV, layout: Any) -> tuple[Array, Array]:
        videos, texts, first = [], [], 0
        for chunk in chunks:
            stop = first + chunk.shape[-2]
            if texts:  # not before the last chunk has been attended to
                chunk, layout, texts[-1] = jax.lax.optimization_barrier((chunk, layout, texts[-1]))
            qkv = tuple(rearrange(chunk, "shards three b n a p -> three b (shards n) a p"))
            rows = attention.attend(qkv, tuple(x[:, :, first:stop] for x in text), layout)
            if texts:  # by now the results of the last chunk have travelled
                rows, videos[-1] = jax.lax.optimization_barrier((rows, videos[-1]))
            video_out, text_out = attention.collect(rows, layout)
            videos.append(_heads_to_tokens(video_out, sharding))
            texts.append(text_out)
            first = stop
        by_shard = jnp.concatenate(videos, axis=3)
        video = rearrange(by_shard, "b n shards a p -> b n (shards a) p")
        return video, jnp.concatenate(texts, axis=2)

    text_heads = sharding.spec(TEXT_HEADS)
    video_out, text_out = jax.shard_map(
        on_device,
        in_specs=(sharding.spec(CHUNK_BY_HEADS), text_heads, sharding.spec(PACKS)),
        out_specs=(sharding.spec(TOKENS), text_heads),
        check_vma=False,
    )(list(chunks), text, layout)
    # The text is put together after the video, beside the layers that follow.
    video_out, text_out = jax.lax.optimization_barrier((video_out, text_out))
    return video_out, constrain_text(text_out)


# What a device sends to another is one piece of memory in both directions, and q, k and v travel
# together: no change of layout but those that are part of what is computed anyway.


def all_to_all(
    x: Float[Array, "shards *rest"], sharding: ActivationSharding
) -> Float[Array, "shards *rest"]:
    """Sends entry i to device i, of those that share the pack, and receives its entry for this."""
    with jax.named_scope("exchange"):
        return jax.lax.all_to_all(x, sharding.tokens, split_axis=0, concat_axis=0)


def _heads_to_tokens(
    x: Float[Array, "b n a p"], sharding: ActivationSharding
) -> Float[Array, "b shard_tokens shards a p"]:
    """All tokens of a device's heads -> all heads of a device's tokens."""
    by_shard = rearrange(x, "b (shards n) a p -> shards b n a p", shards=sharding.shards)
    return rearrange(all_to_all(by_shard, sharding), "shards b n a p -> b n shards a p")
