"""Attention over tokens in shards, for heads whose channels follow one another in a row (TPUs).

As in ``parallel.overlapped_attention`` an all-to-all gives each device all tokens of its own heads,
and a second one brings the results back. All heads travel at once: what a device sends to another
is written by the pass that computes it, and the rows that arrive are the ones that attention's
gather takes, so that nothing is laid out anew for the links.
"""

from collections.abc import Callable
from typing import Any

import jax
from einops import rearrange
from jax import Array

from skipsr_jax.parallel.activations import (
    PACKS,
    TEXT_HEADS,
    TOKENS,
    activation_sharding,
    constrain_text,
)
from skipsr_jax.parallel.overlapped_attention import all_to_all
from skipsr_jax.parallel.sequence import Attention, check_shards
from skipsr_jax.types import Float


def attend_by_merged_heads(
    prepare: Callable[[Any, Any, int], Array],
    attention: Attention,
    video: Any,
    text: tuple[Any, Any],
    layout: Any,
    heads: int,
) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"]]:
    """``attention`` with each device's own heads over all tokens of the packs that it shares.

    Args:
      prepare: from ``video``, ``text[1]`` and the number of shards to what each shard of the heads
        takes, (shards, b, n, i).
      attention: of prepared video (b, n, i), with the text of the same heads.
      video: arrays with the axes b and n first.
      text: arrays (b, m, a, p), whole on each device, and arrays with b first that all heads share.
      layout: arrays with the packs as first axis.
      heads: of the model.

    Raises UserError when heads or tokens do not divide over the devices that share a pack.
    """
    packs, tokens = jax.tree.leaves(video)[0].shape[:2]
    sharding = activation_sharding(packs)
    check_shards(sharding.shards, heads, tokens)

    def on_device(video: Any, text: tuple[Any, Any], layout: Any) -> tuple[Array, Array]:
        received = all_to_all(prepare(video, text[1], sharding.shards), sharding)
        all_tokens = rearrange(received, "shards b n i -> b (shards n) i")
        video_out, text_out = attention(all_tokens, text, layout)
        by_shard = rearrange(video_out, "b (shards n) d -> shards b n d", shards=sharding.shards)
        own_tokens = all_to_all(by_shard, sharding)
        return rearrange(own_tokens, "shards b n d -> b n (shards d)"), text_out

    text_heads, whole = sharding.spec(TEXT_HEADS), sharding.spec(PACKS)
    tokens_spec = sharding.spec(TOKENS)
    video_out, text_out = jax.shard_map(
        on_device,
        in_specs=(tokens_spec, (text_heads, whole), whole),
        out_specs=(tokens_spec, text_heads),
        check_vma=False,
    )(video, text, layout)
    return video_out, constrain_text(text_out)
