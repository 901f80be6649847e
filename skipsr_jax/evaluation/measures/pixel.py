"""PSNR, PSNR-Y and SSIM of a frame, as pyiqa defines them.

PSNR has pyiqa's constant 1e-8 beside the mean squared error, which keeps it finite: two equal
frames have 80 dB. PSNR-Y is that of the Y of YIQ. SSIM is that of Y in 0..255, at full resolution
(no downsampling), with the contrast-structure term of each window at least 0.
"""

import numpy as np

from skipsr_jax.evaluation.measures.stream import Picture, Undefined
from skipsr_jax.evaluation.metrics import SSIM_WINDOW, psnr_of_mse, ssim_terms

_PSNR_EPSILON = 1e-8
"""Added to the mean squared error of pixels in [0, 1]."""


def psnr(result: Picture, truth: Picture) -> float:
    """Peak signal-to-noise ratio over all pixels and channels in dB, at most 80."""
    return _psnr(result.rgb, truth.rgb)


def psnr_y(result: Picture, truth: Picture) -> float:
    """The same of the luma."""
    return _psnr(result.luma, truth.luma)


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(psnr_of_mse(np.mean((a - b) ** 2) + _PSNR_EPSILON))


def ssim(result: Picture, truth: Picture) -> float:
    """Structural similarity of the luma, 0 to 1. Raises Undefined for frames below 11 x 11."""
    if min(result.size) < SSIM_WINDOW:
        raise Undefined(f"SSIM needs {SSIM_WINDOW} pixels a side")
    luminance, structure = ssim_terms(result.luma255, truth.luma255, 255)
    return float((luminance * np.maximum(structure, 0)).mean())
