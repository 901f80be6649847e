"""Array types of the host, and the axis letters that every signature uses. Imports no jax.

Arrays on the device are ``jax.Array``, which the modules that use it import from jax.

Axis letters, one meaning each: ``b`` batch (packs), ``f`` frames, ``h w`` height and width, ``c``
channels, ``n`` video tokens in a bucket, ``m`` text tokens, ``s`` attention rows, ``g`` windows,
``d`` model width, ``e`` modulation width, ``a`` heads, ``p`` per-head width.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8, UInt32

HostArray = np.ndarray
DType = Any
"""A numpy dtype or a scalar type such as ``jnp.bfloat16``; no one type covers both."""

DTYPES = ("float32", "bfloat16")
"""Names of the dtypes that networks can be computed in."""

__all__ = ["DTYPES", "Bool", "DType", "Float", "HostArray", "Int", "UInt8", "UInt32"]
