"""Shared vocabulary: array types and the axis letters that every signature uses.

Axis letters, one meaning each: ``b`` batch (packs), ``f`` frames, ``h w`` height and width, ``c``
channels, ``n`` video tokens in a bucket, ``m`` text tokens, ``s`` attention rows, ``g`` windows,
``d`` model width, ``e`` modulation width, ``a`` heads, ``p`` per-head width.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array = jax.Array
HostArray = np.ndarray
DType = Any
"""A numpy dtype or a scalar type such as ``jnp.bfloat16``; no one type covers both."""

__all__ = ["Array", "Bool", "DType", "Float", "HostArray", "Int", "UInt8"]
