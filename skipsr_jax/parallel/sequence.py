"""Sequence parallelism: tokens over devices, and heads over devices while attention runs.

Everything per token runs where the token lies. Attention looks at all tokens of a window, but at
one head on its own: an all-to-all gives each of k devices all tokens of 1 / k of the heads, a
second one brings the results back to their tokens (Jacobs et al. 2023, DeepSpeed Ulysses, arXiv
2309.14509). Each token crosses the wire four times a block (q, k, v, result) whatever k is. Where
the plan has dealt whole windows to the devices, none does in the layers of that partition.

The text of a pack, a few rows, lies whole on each of its devices; in attention each device takes
its own heads of it. Invariant: the result is that of one device, whatever mesh, mask or bucket.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax.sharding import PartitionSpec as P

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.constrain import constrain
from skipsr_jax.parallel.placement import Placement, placement
from skipsr_jax.types import Array, Float

QKV = tuple[Array, Array, Array]
Attend = Callable[[QKV, QKV, Any], tuple[Array, Array]]

PARTS = 2
"""In how many goes the heads are exchanged: one travels while another is computed."""


class Heads(NamedTuple):
    """The heads of one go: numbers ``start`` to ``stop`` of each of ``groups`` equal groups.

    A group is what one device attends with.
    """

    groups: int
    start: int
    stop: int

    @property
    def count(self) -> int:
        """How many in all."""
        return self.groups * (self.stop - self.start)

    def columns(self, kernel: Float[Array, "d i"], heads: int) -> Float[Array, "d o"]:
        """The columns for queries, keys and values of these heads, out of those for all heads."""
        by_head = rearrange(kernel, "d (three a p) -> d three a p", three=3, a=heads)
        return rearrange(self.of(by_head), "d three a p -> d (three a p)")

    def of(self, x: Float[Array, "*rows a p"]) -> Float[Array, "*rows h p"]:
        """These heads of an array that has all of them."""
        if self.count == x.shape[-2]:
            return x
        by_group = x.reshape(*x.shape[:-2], self.groups, -1, x.shape[-1])
        chosen = by_group[..., self.start : self.stop, :]
        return chosen.reshape(*x.shape[:-2], self.count, x.shape[-1])


def head_parts(packs: int, heads: int) -> list[Heads]:
    """The goes: one with all heads where no devices share a pack.

    Raises UserError unless the heads fall into equal parts over the devices.
    """
    shards = placement(packs).shards
    check_heads(shards, heads)
    parts = 1 if shards == 1 else min(PARTS, heads // shards)
    bounds = np.linspace(0, heads // shards, parts + 1).round().astype(int).tolist()
    return [Heads(shards, *pair) for pair in itertools.pairwise(bounds)]


def join_heads(parts: Sequence[Float[Array, "b n _ p"]]) -> Float[Array, "b n a p"]:
    """The results of ``head_parts``, one after the other, in the order of the heads."""
    shards = placement(len(parts[0])).shards
    by_device = [rearrange(part, "b n (k h) p -> b n k h p", k=shards) for part in parts]
    return rearrange(jnp.concatenate(by_device, axis=3), "b n k h p -> b n (k h) p")


def constrain_tokens(x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
    """Tokens in equal shards over the devices that share their pack."""
    place = placement(len(x))
    return constrain(x, place.packs, place.tokens, None)


def constrain_text(x: Float[Array, "b m *rest"]) -> Float[Array, "b m *rest"]:
    """The text whole on each of the devices that share its pack."""
    return constrain(x, placement(len(x)).packs, *[None] * (x.ndim - 1))


def check_heads(shards: int, heads: int) -> None:
    """Raises UserError unless the heads fall into ``shards`` equal parts."""
    if heads % shards:
        raise UserError(
            f"{heads} heads do not divide over a mesh of {shards} devices that share a sequence: "
            f"make it {', '.join(str(k) for k in range(1, heads) if heads % k == 0)} or {heads}"
        )


def check_shards(shards: int, heads: int, tokens: int) -> None:
    """Raises UserError unless a pack's tokens and heads fall into ``shards`` equal parts."""
    check_heads(shards, heads)
    if tokens % shards:
        raise UserError(
            f"{tokens} tokens do not divide over the {shards} devices that share a sequence: build "
            f"the plan for a bucket with a multiple of {shards}"
        )


def attend_by_heads(
    attend: Attend, video: QKV, text: QKV, plan: Any
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """``attend(video, text, plan)`` with the heads over the devices, the tokens whole on each.

    Args:
      attend: from queries, keys and values to results, for any packs and heads on their own.
      video: queries, keys and values (b, n, a, p), in equal token shards. text: (b, m, a, p) each,
        whole.
      plan: arrays with the packs as leading axis, that all heads share.

    Raises UserError when heads or tokens do not divide over the devices.
    """
    packs, tokens, heads, _ = video[0].shape
    place = placement(packs)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend(video, text, plan)
    check_shards(place.shards, heads, tokens)

    def on_device(video: QKV, text: QKV, plan: Any) -> tuple[Array, Array]:
        if place.shards == 1:
            return attend(video, text, plan)
        video_out, text_out = attend(_tokens_to_heads(video, place), text, plan)
        return _heads_to_tokens(video_out, place), text_out

    of_video, of_text = (
        P(place.packs or None, place.tokens),
        P(place.packs or None, None, place.tokens),
    )
    # check_vma: custom calls (cuDNN, Pallas) do not say over which axes their results vary.
    video_out, text_out = jax.shard_map(
        on_device,
        in_specs=(of_video, of_text, P(place.packs or None)),
        out_specs=(of_video, of_text),
        check_vma=False,
    )(video, text, plan)
    return video_out, constrain_text(text_out)


def attend_by_windows(
    attend: Attend, video: QKV, text: QKV, parts: Any
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """``attend`` with all heads where the tokens are, for windows that lie whole on a device.

    Args: as ``attend_by_heads``; ``parts``: plans of the parts of the tokens, arrays with the packs
      as first axis and the parts as second. Raises ValueError unless there is one for each device.
    """
    place = placement(len(video[0]))
    dealt = jax.tree.leaves(parts)[0].shape[1]
    if dealt != place.shards:
        raise ValueError(
            f"windows were dealt to {dealt} devices, but {place.shards} share the sequence: build "
            f"the plan with shards={place.shards}"
        )

    def on_device(video: QKV, text: QKV, parts: Any) -> tuple[Array, Array]:
        own = jax.tree.map(lambda array: array[:, 0], parts)
        video_out, text_out = attend(video, text, own)
        return video_out, jax.lax.psum(text_out, place.tokens)

    packs, cut = place.packs or None, P(place.packs or None, place.tokens)
    return jax.shard_map(
        on_device, in_specs=(cut, P(packs), cut), out_specs=(cut, P(packs)), check_vma=False
    )(video, text, parts)


# What a device sends to another is one piece of memory in both of these, and q, k and v travel
# together: no change of layout but those that are part of what is computed anyway.


def _tokens_to_heads(qkv: QKV, place: Placement) -> QKV:
    """All heads of a device's tokens -> all tokens of a device's heads: (b, n, a, p) each."""
    pieces = [rearrange(x, "b n (k h) p -> k b n h p", k=place.shards) for x in qkv]
    x = jax.lax.all_to_all(jnp.stack(pieces, axis=1), place.tokens, split_axis=0, concat_axis=0)
    q, k, v = (rearrange(x[:, i], "k b n h p -> b (k n) h p") for i in range(3))
    return q, k, v


def _heads_to_tokens(x: Float[Array, "b n h p"], place: Placement) -> Float[Array, "b m a p"]:
    """The inverse of ``_tokens_to_heads``, for one array."""
    x = rearrange(x, "b (k n) h p -> k b n h p", k=place.shards)
    x = jax.lax.all_to_all(x, place.tokens, split_axis=0, concat_axis=0)
    return rearrange(x, "k b n h p -> b n (k h) p")
