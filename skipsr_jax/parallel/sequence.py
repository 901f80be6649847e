"""Sequence parallelism: the tokens of a pack over devices, and attention over them.

Everything but attention is per token and runs in the token shards. Attention relates all tokens of
a window, so it takes one of three forms:

* no devices share a pack: each attends to its own packs (``attend_by_packs``);
* the plan assigns whole windows to token shards: each device attends to its own windows with all
  heads, and exchanges nothing but the text's results (``attend_by_windows``);
* else tokens are exchanged for heads (``parallel.overlapped_attention``).

The text of a pack, a few rows, is whole on each of its devices. Invariant: the result is that of
one device, whatever the mesh, the mask and the bucket.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.activations import (
    PACKS,
    SHARD_LAYOUTS,
    TOKENS,
    activation_sharding,
    multi_device_mesh,
)
from skipsr_jax.types import Float

QKV = tuple[Array, Array, Array]
"""Queries, keys and values."""


Tokens = tuple[Any, ...]
"""What attention takes of tokens: queries, keys and values, or what it makes these from. Arrays of
video have the axes b and n first, those of text the axis b."""


class Attention(NamedTuple):
    """Attention of video and text in two steps, for any subset of packs and heads.

    Attributes:
      attend: from video, text and a layout to attention rows.
      collect: from attention rows and the layout to the results of stored tokens (an array, or a
        pytree of arrays with the axes b and n first) and of text tokens.
    """

    attend: Callable[[Tokens, Tokens, Any], Array]
    collect: Callable[[Array, Any], tuple[Any, Array]]

    def __call__(self, video: Any, text: Tokens, layout: Any) -> tuple[Any, Array]:
        return self.collect(self.attend(video, text, layout), layout)


def check_heads(shards: int, heads: int) -> None:
    """Raises UserError unless the heads divide over ``shards`` devices."""
    if heads % shards:
        raise UserError(
            f"{heads} heads do not divide over a mesh of {shards} devices that share a sequence: "
            f"make it {', '.join(str(k) for k in range(1, heads) if heads % k == 0)} or {heads}"
        )


def check_shards(shards: int, heads: int, tokens: int) -> None:
    """Raises UserError unless a pack's tokens and heads divide over ``shards`` devices."""
    check_heads(shards, heads)
    if tokens % shards:
        raise UserError(
            f"{tokens} tokens do not divide over the {shards} devices that share a sequence: build "
            f"the plan for a bucket with a multiple of {shards}"
        )


def attend_by_packs(
    attention: Attention, video: Tokens, text: Tokens, layout: Any
) -> tuple[Any, Float[Array, "b m *heads"]]:
    """``attention(video, text, layout)`` where no devices share a pack: each runs its own packs.

    Args:
      video, text: for all heads.
      layout: arrays with the packs as first axis, which all heads share.
    """
    if multi_device_mesh() is None:
        return attention(video, text, layout)
    packs = activation_sharding(len(video[0])).spec(PACKS)
    # check_vma: custom calls (cuDNN, Pallas) do not say over which axes their results vary.
    return jax.shard_map(
        attention, in_specs=(packs,) * 3, out_specs=(packs, packs), check_vma=False
    )(video, text, layout)


def attend_by_windows(
    attention: Attention, video: Tokens, text: Tokens, shard_layouts: Any
) -> tuple[Any, Float[Array, "b m *heads"]]:
    """``attention`` with all heads in the token shards, to which whole windows are assigned.

    Args: as ``attend_by_packs``; ``shard_layouts``: the layouts of the token shards, arrays with
      the packs as first axis and the shards as second. Raises ValueError unless there is a layout
      for each device that shares a pack.
    """
    sharding = activation_sharding(len(video[0]))
    assigned = jax.tree.leaves(shard_layouts)[0].shape[1]
    if assigned != sharding.shards:
        raise ValueError(
            f"windows were assigned to {assigned} devices, but {sharding.shards} share the "
            f"sequence: build the plan with shards={sharding.shards}"
        )

    def on_device(video: Tokens, text: Tokens, shard_layouts: Any) -> tuple[Any, Array]:
        layout = jax.tree.map(lambda array: array[:, 0], shard_layouts)
        video_out, text_out = attention(video, text, layout)
        # Left to itself, the compiler would put the sum of the text between the next layer's heads.
        text_out = jax.lax.psum(text_out, sharding.tokens)
        return jax.lax.optimization_barrier((video_out, text_out))

    tokens, whole = sharding.spec(TOKENS), sharding.spec(PACKS)
    return jax.shard_map(
        on_device,
        in_specs=(tokens, whole, sharding.spec(SHARD_LAYOUTS)),
        out_specs=(tokens, whole),
        check_vma=False,
    )(video, text, shard_layouts)
