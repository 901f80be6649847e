"""Full-reference measures of two clips: PSNR, and SSIM (Wang et al. 2004) on RGB or on luma.

On the host in float64, so that a number does not depend on the device. Frames are (f, h, w, c) in
[0, data_range]: float in [0, 1] with the default range, or uint8 with ``data_range=255``.

PSNR is of the whole clip: one mean squared error over all its frames, pixels and channels. SSIM is
of each frame and channel, averaged. Papers that report PSNR-Y or SSIM-Y use ``luma`` first.
"""

import numpy as np

from skipsr_jax.types import Float, HostArray

WINDOW_SIGMA = 1.5  # pixels; with the 11 x 11 window and K1, K2 below, the paper's own choice
WINDOW_RADIUS = 5
_K1, _K2 = 0.01, 0.03
_BT601_STUDIO = np.array([65.481, 128.553, 24.966]) / 255  # and an offset of 16 / 255


def _same_clips(a: HostArray, b: HostArray, data_range: float | int) -> tuple[HostArray, HostArray]:
    if a.shape != b.shape or a.ndim != 4 or a.size == 0:
        raise ValueError(
            f"clips {a.shape} and {b.shape} must have one shape (f, h, w, c), not empty"
        )
    if data_range <= 0:
        raise ValueError(f"data_range must be positive, not {data_range}")
    if "u" in (a.dtype.kind, b.dtype.kind) and data_range < 255:
        raise ValueError(
            f"integer frames ({a.dtype}, {b.dtype}) with data_range {data_range}: pass "
            "data_range=255, or divide by 255"
        )
    return a.astype(np.float64), b.astype(np.float64)


def luma(frames: Float[HostArray, "f h w 3"]) -> Float[HostArray, "f h w 1"]:
    """BT.601 luma of RGB in [0, 1], in studio range (16 to 235 of 255): what PSNR-Y is taken of."""
    return frames.astype(np.float64) @ _BT601_STUDIO[:, None] + 16 / 255


def psnr(a: HostArray, b: HostArray, data_range: float | int = 1.0) -> float:
    """Peak signal-to-noise ratio of a clip in dB; infinity for equal clips."""
    a, b = _same_clips(a, b, data_range)
    error = np.mean((a - b) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(data_range**2 / error))


def _blur_inside(x: Float[HostArray, "f h w c"]) -> Float[HostArray, "f h2 w2 c"]:
    """Gaussian means of every whole window; the border without one is cut off."""
    offset = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    weight = np.exp(-(offset**2) / (2 * WINDOW_SIGMA**2))
    weight /= weight.sum()
    for axis in (1, 2):
        size = x.shape[axis] - 2 * WINDOW_RADIUS
        parts = (
            w * np.take(x, range(i, i + size), axis=axis) for i, w in enumerate(weight.tolist())
        )
        x = sum(parts)
    return x


def ssim_per_frame(
    a: HostArray, b: HostArray, data_range: float | int = 1.0
) -> Float[HostArray, "f"]:
    """Structural similarity of each frame: mean over 11 x 11 Gaussian windows and channels."""
    a, b = _same_clips(a, b, data_range)
    if min(a.shape[1:3]) < 2 * WINDOW_RADIUS + 1:
        raise ValueError(
            f"SSIM needs frames of at least {2 * WINDOW_RADIUS + 1} pixels a side, not "
            f"{a.shape[1]}x{a.shape[2]}"
        )
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    scores = []
    for x, y in zip(a, b, strict=True):  # a frame at a time: five blurred copies are alive
        x, y = x[None], y[None]
        mean_x, mean_y = _blur_inside(x), _blur_inside(y)
        var_x = _blur_inside(x * x) - mean_x**2
        var_y = _blur_inside(y * y) - mean_y**2
        cov = _blur_inside(x * y) - mean_x * mean_y
        light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * cov + c2) / (var_x + var_y + c2)
        scores.append((light * structure).mean())
    return np.array(scores)


def ssim(a: HostArray, b: HostArray, data_range: float | int = 1.0) -> float:
    """Mean of ``ssim_per_frame``."""
    return float(ssim_per_frame(a, b, data_range).mean())
