"""Sequence parallelism: tokens over devices, and heads over devices while attention runs.

Everything per token runs where the token lies. Attention looks at all tokens of a window, but at
one head on its own: an all-to-all gives each of k devices all tokens of 1 / k of the heads, a
second one brings the results back to their tokens (Jacobs et al. 2023, DeepSpeed Ulysses, arXiv
2309.14509). Each token crosses the wire four times a block (q, k, v, result) whatever k is.

The text of a pack, a few rows, lies whole on each of its devices; in attention each device takes
its own heads of it. Invariant: the result is that of one device, whatever mesh, mask or bucket.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.constrain import constrain
from skipsr_jax.parallel.placement import placement
from skipsr_jax.types import Array, Float

Attend = Callable[[Array, Array, Any], tuple[Array, Array]]


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
    attend: Attend, video: Float[Array, "3 b n a p"], text: Float[Array, "3 b m a p"], plan: Any
) -> tuple[Float[Array, "b n a p"], Float[Array, "b m a p"]]:
    """``attend(video, text, plan)`` with the heads over the devices, the tokens whole on each.

    Args:
      attend: from queries, keys and values to results, for any packs and heads on their own.
      video: in equal token shards. text: whole.
      plan: arrays with the packs as leading axis, that all heads share.

    Raises UserError when heads or tokens do not divide over the devices.
    """
    place = placement(video.shape[1])
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend(video, text, plan)
    packs, tokens = place.packs or None, place.tokens
    check_shards(place.shards, video.shape[3], video.shape[2])

    def on_device(video: Array, text: Array, plan: Any) -> tuple[Array, Array]:
        if place.shards > 1:
            video = jax.lax.all_to_all(video, tokens, split_axis=3, concat_axis=2, tiled=True)
        video_out, text_out = attend(video, text, plan)
        if place.shards > 1:
            video_out = jax.lax.all_to_all(
                video_out, tokens, split_axis=1, concat_axis=2, tiled=True
            )
        return video_out, text_out

    # check_vma: custom calls (cuDNN, Pallas) do not say over which axes their results vary.
    video_out, text_out = jax.shard_map(
        on_device,
        in_specs=(P(None, packs, tokens), P(None, packs, None, tokens), P(packs)),
        out_specs=(P(packs, tokens), P(packs, None, tokens)),
        check_vma=False,
    )(video, text, plan)
    return video_out, constrain_text(text_out)
