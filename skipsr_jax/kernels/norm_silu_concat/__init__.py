"""Fused norm, SiLU and concatenation: the pass over memory between two causal convolutions.

Before a causal 3 x 3 x 3 convolution runs on a slice of a video, its input is

1. normalised: ``(x - mean) * scale + shift`` per channel and frame (``ScaleShift``, which a group
   norm computes from its statistics),
2. activated: ``silu``,
3. concatenated with the causal-conv cache, the last input frames of the slice before,

and the last frames of the result are the cache of the next slice. One kernel does all of it in one
pass, and changes the cache in place. Without a ``ScaleShift`` it concatenates and caches alone.

There are two forms of the input, each a package with the same three modules. ``api`` has the public
function and chooses an implementation, ``xla`` has the reference in plain XLA and the facts by
which the choice is made, and ``triton`` has the Pallas kernel for NVIDIA GPUs:

- ``frames``: whole frames (b, f, h, w, c) with their cache. The kernel can also append the padding
  that a strided convolution would otherwise add by a copy.
- ``blocks``: the active blocks of a sparse convolution, (slots, f, size, size, c). The kernel also
  adds the halo of one pixel from the neighbouring blocks. The cache holds all blocks of the frame.

``scale_shift`` is the arithmetic in XLA, and ``triton_parts`` what the two Triton kernels share.
"""

from skipsr_jax.kernels.norm_silu_concat.blocks.api import norm_silu_concat_blocks
from skipsr_jax.kernels.norm_silu_concat.frames.api import norm_silu_concat_frames
from skipsr_jax.kernels.norm_silu_concat.frames.xla import SpacePadding, frames_to_cache
from skipsr_jax.kernels.norm_silu_concat.scale_shift import ScaleShift, scale_shift_silu

__all__ = [
    "ScaleShift",
    "SpacePadding",
    "frames_to_cache",
    "norm_silu_concat_blocks",
    "norm_silu_concat_frames",
    "scale_shift_silu",
]
