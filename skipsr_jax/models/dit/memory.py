"""An estimate of the memory that one call of the transformer takes besides its parameters.

Blocks run one after the other on the same memory, so the estimate is the most that is alive inside
one block, counted from shapes: in the feed-forward, or where attention rows are gathered. With the
parameters, the estimates for 21 to 101 frames of 720p and 101 of 1080p on an H200 (3B and 7B,
docs/performance.md) are within 5 % of the measured peaks.
"""

from skipsr_jax.geometry import PATCH_AREA
from skipsr_jax.models.dit.config import DiTConfig
from skipsr_jax.models.dit.mlp import gated_hidden

_FLOAT32 = 4


def activation_bytes(config: DiTConfig, tokens: int, rows: int, itemsize: int) -> int:
    """Bytes of arrays alive at once, for one pack.

    Args:
      config: of the transformer.
      tokens: of video, padding included; in each layer on one device.
      rows: attention rows.
      itemsize: bytes of a number in the layers.
    """
    d, inner = config.width, config.heads * config.head_dim
    if config.gated_mlp:  # two inputs of the product, and the product
        feed_forward = tokens * (2 * d + 3 * gated_hidden(d, config.expand_ratio))
    else:
        feed_forward = tokens * (3 * d + 2 * d * config.expand_ratio)
    attention = tokens * (d + 3 * inner) + rows * 4 * inner  # rows: query, key, value and result
    inputs = 2 * tokens * PATCH_AREA * config.in_channels * _FLOAT32
    return max(feed_forward, attention) * itemsize + inputs
