"""Measures of quality: PSNR and SSIM of two clips; precision, recall and F1 of two masks.

`psnr` and `ssim` run on the host in float64, so that a number does not depend on the device. Their
frames are (f, h, w, c) in [0, data_range]: float in [0, 1] with the default range, or uint8 with
``data_range=255``. PSNR is that of the whole clip: of one mean squared error over all frames,
pixels and channels. SSIM (Wang et al. 2004) is computed of each frame and channel, and averaged.

`psnr_of_mse` and `mask_agreement` take NumPy or JAX arrays, so that training logs by the same
definitions on the device.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.types import Bool, Float, HostArray

WINDOW_SIGMA = 1.5  # pixels; with the 11 x 11 window and K1, K2 below, the choice of Wang et al.
WINDOW_RADIUS = 5
SSIM_WINDOW = 2 * WINDOW_RADIUS + 1
"""Pixels along the side of a window of SSIM: 11."""
_K1, _K2 = 0.01, 0.03


def _namespace(array: object) -> ModuleType:
    return jnp if isinstance(array, jax.Array) else np


def psnr_of_mse(
    mse: Float[HostArray, "..."] | Float[Array, "..."] | float,
    data_range: float | int = 1.0,
    *,
    ceiling: float = 100.0,
) -> HostArray | Array | np.floating:
    """Peak signal-to-noise ratio in dB of a mean squared error, at most ``ceiling``.

    ``mse`` is an array of any shape and its unit is that of ``data_range`` squared.
    """
    xp = _namespace(mse)
    return -10 * xp.log10(xp.maximum(mse / data_range**2, 10 ** (-ceiling / 10)))


def mask_agreement(
    keep: Bool[HostArray, "..."] | Bool[Array, "..."],
    truth: Bool[HostArray, "..."] | Bool[Array, "..."],
) -> dict[str, HostArray | Array | np.floating]:
    """Precision, recall and F1 of the True entries of ``keep`` against those of ``truth``.

    Both have one shape. Each is 1 where its denominator is 0: there is nothing to get wrong.
    """
    xp = _namespace(keep)
    both, kept, true = (xp.sum(x * 1.0) for x in (keep & truth, keep, truth))

    ratios = {
        "precision": (both, kept),
        "recall": (both, true),
        "f1": (2 * both, kept + true),
    }
    return {
        name: xp.where(whole > 0, part / xp.maximum(whole, 1), 1.0)
        for name, (part, whole) in ratios.items()
    }


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


def psnr(a: HostArray, b: HostArray, data_range: float | int = 1.0) -> float:
    """Peak signal-to-noise ratio of a clip in dB; infinity for equal clips.

    Raises ValueError when the clips differ in shape, or when integers have a ``data_range`` of 1.
    """
    a, b = _same_clips(a, b, data_range)
    mse = np.mean((a - b) ** 2)
    return float("inf") if mse == 0 else float(psnr_of_mse(mse, data_range, ceiling=np.inf))


def _blur_inside(x: Float[HostArray, "h w *c"]) -> Float[HostArray, "h2 w2 *c"]:
    """Gaussian means over all windows that lie inside of a frame."""
    offset = np.arange(-WINDOW_RADIUS, WINDOW_RADIUS + 1)
    weight = np.exp(-(offset**2) / (2 * WINDOW_SIGMA**2))
    weight /= weight.sum()
    height, width = x.shape[0] - 2 * WINDOW_RADIUS, x.shape[1] - 2 * WINDOW_RADIUS
    rows = sum(w * x[i : i + height] for i, w in enumerate(weight.tolist()))
    return sum(w * rows[:, i : i + width] for i, w in enumerate(weight.tolist()))


def ssim_terms(
    x: Float[HostArray, "h w *c"], y: Float[HostArray, "h w *c"], data_range: float | int
) -> tuple[Float[HostArray, "h2 w2 *c"], Float[HostArray, "h2 w2 *c"]]:
    """The luminance term and the contrast-structure term of SSIM in each 11 x 11 Gaussian window.

    The windows lie inside of the frame, whose sides are at least SSIM_WINDOW pixels.
    """
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    mean_x, mean_y = _blur_inside(x), _blur_inside(y)
    var_x = _blur_inside(x * x) - mean_x**2
    var_y = _blur_inside(y * y) - mean_y**2
    cov = _blur_inside(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * cov + c2) / (var_x + var_y + c2)


def ssim_per_frame(
    a: HostArray, b: HostArray, data_range: float | int = 1.0
) -> Float[HostArray, "f"]:
    """Structural similarity of each frame: the mean over 11 x 11 Gaussian windows and channels.

    Raises ValueError as `psnr`, and for frames smaller than a window.
    """
    a, b = _same_clips(a, b, data_range)
    if min(a.shape[1:3]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs frames of at least {SSIM_WINDOW} pixels a side, not "
            f"{a.shape[1]}x{a.shape[2]}"
        )
    scores = []
    for x, y in zip(a, b, strict=True):  # a frame at a time: there are five blurred copies
        luminance, structure = ssim_terms(x, y, data_range)
        scores.append((luminance * structure).mean())
    return np.array(scores)


def ssim(a: HostArray, b: HostArray, data_range: float | int = 1.0) -> float:
    """The mean of `ssim_per_frame`."""
    return float(ssim_per_frame(a, b, data_range).mean())
