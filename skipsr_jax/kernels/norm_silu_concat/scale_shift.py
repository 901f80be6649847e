"""Scale and shift of each channel, then SiLU: what a convolution's input goes through, in XLA."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.types import DType, Float

E4M3 = jnp.dtype(jnp.float8_e4m3fn)
_LARGEST = 448.0  # of e4m3: a conversion gives NaN beyond


def in_dtype(x: Float[Array, "*dims"], dtype: DType) -> Float[Array, "*dims"]:
    """x in ``dtype``; for e4m3, numbers beyond its range become its largest ones.

    They need no factor: normalised numbers are a few units, and e4m3 keeps its relative precision
    from 1/64 to 448.
    """
    if jnp.dtype(dtype) == E4M3 and x.dtype != E4M3:
        x = jnp.clip(x.astype(jnp.float32), -_LARGEST, _LARGEST)
    return x.astype(dtype)


class ScaleShift(NamedTuple):
    """(x - mean) * scale + shift, for each channel in each frame, in float32."""

    mean: Float[Array, "*b f c"]
    scale: Float[Array, "*b f c"]
    shift: Float[Array, "*b f c"]


def scale_shift_silu(
    x: Float[Array, "b f h w c"], scale_shift: ScaleShift | None, dtype: DType | None = None
) -> Float[Array, "b f h w c"]:
    """silu((x - mean) * scale + shift), computed in float32; x itself for None.

    ``dtype``: of the result, by default x's.
    """
    dtype = x.dtype if dtype is None else dtype
    if scale_shift is None:
        return in_dtype(x, dtype)
    mean, scale, shift = (part[..., None, None, :] for part in scale_shift)
    return in_dtype(jax.nn.silu((x.astype(jnp.float32) - mean) * scale + shift), dtype)
