"""Multi-scale SSIM (Wang et al. 2003) of a frame, as pyiqa defines it.

Five scales of the luma in 0..255. Each is the 2 x 2 mean of the one before; an odd side is padded
with a row or column of zeros at both ends, zeros that the means include.
"""

import numpy as np

from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.metrics import SSIM_WINDOW, ssim_terms
from skipsr_jax.types import Float, HostArray

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales, the finest first (Wang et al. 2003)."""
SMALLEST = (SSIM_WINDOW - 1) * 2 ** (len(WEIGHTS) - 1) + 1
"""Pixels a side that are needed for a window at the coarsest scale, whatever the parity: 161."""


def _halved(x: Float[HostArray, "h w"]) -> Float[HostArray, "h2 w2"]:
    height, width = x.shape
    x = np.pad(x, ((height % 2,) * 2, (width % 2,) * 2))
    x = x[: x.shape[0] // 2 * 2, : x.shape[1] // 2 * 2]
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def ms_ssim(result: Picture, truth: Picture) -> float:
    """MS-SSIM of the luma, 0 to 1. Raises Undefined for frames that are too small."""
    if min(result.size) < SMALLEST:
        raise Undefined(f"MS-SSIM needs {SMALLEST} pixels a side")
    a, b, product = result.luma255, truth.luma255, 1.0
    for scale, weight in enumerate(WEIGHTS):
        luminance, structure = ssim_terms(a, b, 255)
        structure = np.maximum(structure, 0)
        last = scale == len(WEIGHTS) - 1
        product *= float((luminance * structure if last else structure).mean()) ** weight
        a, b = _halved(a), _halved(b)
    return product
