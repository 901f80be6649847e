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
from jax import Array
from jax.sharding import PartitionSpec as P

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.constrain import constrain
from skipsr_jax.parallel.placement import Placement, placement
from skipsr_jax.types import Float

QKV = tuple[Array, Array, Array]


class Attend(NamedTuple):
    """Attention in two steps, for any packs and heads on their own.

    Attributes:
      rows: from queries, keys and values of video and text, and a plan, to rows.
      results: from rows and the plan to what stored tokens and text tokens get.
    """

    rows: Callable[[QKV, QKV, Any], Array]
    results: Callable[[Array, Any], tuple[Array, Array]]

    def __call__(self, video: QKV, text: QKV, plan: Any) -> tuple[Array, Array]:
        return self.results(self.rows(video, text, plan), plan)


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
        by_group = x.reshape(*x.shape[:-2], self.groups, -1, x.shape[-1])
        chosen = by_group[..., self.start : self.stop, :]
        return chosen.reshape(*x.shape[:-2], self.count, x.shape[-1])

    def pieces(self, qkv: QKV) -> Float[Array, "k three b n h p"]:
        """Queries, keys and values of these heads, as they are sent: a piece for each group."""
        by_group = [rearrange(x, "b n (k h) p -> k b n h p", k=self.groups) for x in qkv]
        return jnp.stack(by_group, axis=1)


def head_parts(packs: int, heads: int) -> list[Heads]:
    """The goes in which ``attend_by_heads`` takes all heads.

    Raises UserError unless the heads fall into equal parts over the devices.
    """
    shards = placement(packs).shards
    check_heads(shards, heads)
    own = heads // shards
    bounds = np.linspace(0, own, min(PARTS, own) + 1).round().astype(int).tolist()
    return [Heads(shards, *pair) for pair in itertools.pairwise(bounds)]


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


def exchange(pieces: Float[Array, "k three b n h p"]) -> Float[Array, "k three b m a p"]:
    """``Heads.pieces`` in token shards -> all tokens (k m) of its own heads on each device.

    Raises UserError when heads or tokens do not divide over the devices.
    """
    groups, _, packs, tokens, heads, _ = pieces.shape
    place = placement(packs)
    check_shards(place.shards, groups * heads, tokens)
    packs = place.packs or None
    return jax.shard_map(
        lambda pieces: _sent(pieces, place),
        in_specs=P(None, None, packs, place.tokens),
        out_specs=P(None, None, packs, None, place.tokens),
        check_vma=False,
    )(pieces)


def attend_by_packs(
    attend: Attend, video: QKV, text: QKV, plan: Any
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """``attend(video, text, plan)`` where no devices share a pack: each on its own packs.

    Args:
      attend: for any packs and heads on their own.
      video: queries, keys and values (b, n, a, p). text: (b, m, a, p) each.
      plan: arrays with the packs as leading axis, that all heads share.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend(video, text, plan)
    cut = P(placement(len(video[0])).packs or None)
    # check_vma: custom calls (cuDNN, Pallas) do not say over which axes their results vary.
    return jax.shard_map(attend, in_specs=(cut, cut, cut), out_specs=(cut, cut), check_vma=False)(
        video, text, plan
    )


def attend_by_heads(
    attend: Attend, goes: Sequence[Float[Array, "k three b j h p"]], text: QKV, plan: Any
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """``attend`` with the heads over the devices that share a pack, the tokens whole on each.

    A go is attended after the one before, while the next one's heads and the last one's results
    travel: the order is fixed, as the compiler by itself sends a thing when it is about to be used.

    Args:
      attend, text, plan: as ``attend_by_packs``; the text whole on each device.
      goes: of all goes of ``head_parts``, what ``exchange`` gives.
    """
    place = placement(goes[0].shape[2])

    def on_device(goes: list[Array], text: QKV, plan: Any) -> tuple[Array, Array]:
        videos, texts, first = [], [], 0
        for arrived in goes:
            stop = first + arrived.shape[-2]
            if texts:  # not before the last go has been attended
                arrived, plan, texts[-1] = jax.lax.optimization_barrier((arrived, plan, texts[-1]))
            qkv = tuple(rearrange(arrived, "k three b n h p -> three b (k n) h p"))
            rows = attend.rows(qkv, tuple(x[:, :, first:stop] for x in text), plan)
            if texts:  # by now the results of the last go have travelled
                rows, videos[-1] = jax.lax.optimization_barrier((rows, videos[-1]))
            video, own = attend.results(rows, plan)
            videos.append(_heads_to_tokens(video, place))
            texts.append(own)
            first = stop
        by_device = jnp.concatenate(videos, axis=3)
        video = rearrange(by_device, "b n k h p -> b n (k h) p")
        return video, jnp.concatenate(texts, axis=2)

    packs = place.packs or None
    of_goes, of_text = P(None, None, packs, None, place.tokens), P(packs, None, place.tokens)
    video_out, text_out = jax.shard_map(
        on_device,
        in_specs=(of_goes, of_text, P(packs)),
        out_specs=(P(packs, place.tokens), of_text),
        check_vma=False,
    )(list(goes), text, plan)
    # The text is put together after the video, beside the layers that follow.
    video_out, text_out = jax.lax.optimization_barrier((video_out, text_out))
    return video_out, constrain_text(text_out)


def attend_by_windows(
    attend: Attend, video: QKV, text: QKV, parts: Any
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """``attend`` with all heads where the tokens are, for windows that lie whole on a device.

    Args: as ``attend_by_packs``; ``parts``: plans of the parts of the tokens, arrays with the packs
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
        # The sum of the text, left to the compiler, would be in the way of the next layer's heads.
        return jax.lax.optimization_barrier((video_out, jax.lax.psum(text_out, place.tokens)))

    packs, cut = place.packs or None, P(place.packs or None, place.tokens)
    return jax.shard_map(
        on_device, in_specs=(cut, P(packs), cut), out_specs=(cut, P(packs)), check_vma=False
    )(video, text, parts)


# What a device sends to another is one piece of memory in both directions, and q, k and v travel
# together: no change of layout but those that are part of what is computed anyway.


def _sent(pieces: Float[Array, "k *piece"], place: Placement) -> Float[Array, "k *piece"]:
    """A piece to and from each of the devices that share the pack."""
    return jax.lax.all_to_all(pieces, place.tokens, split_axis=0, concat_axis=0)


def _heads_to_tokens(x: Float[Array, "b n h p"], place: Placement) -> Float[Array, "b m k h p"]:
    """All tokens of a device's heads -> all heads of a device's tokens."""
    pieces = rearrange(x, "b (k n) h p -> k b n h p", k=place.shards)
    return rearrange(_sent(pieces, place), "k b n h p -> b n k h p")
