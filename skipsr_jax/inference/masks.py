"""Makes the keep mask of a chunk. ``keep_mask`` chooses the source, with one function per source.

True marks a patch that runs. All functions work on the host; only the predictor's logits are
downloaded from the device (a few kB). Sources: ``predictor`` (paper section 4.2, on the latent, or
on the input's own pixels for the predictor that comes with the package), ``oracle`` (Eq. 1 on the
true high-resolution frames), ``input`` (Eq. 1's idea on the input itself, no training needed) and
``none`` (every patch runs). A new source takes a function here, a branch in ``keep_mask`` and a
name in ``settings.MASK_SOURCES``.
"""

import math
from collections.abc import Callable

import numpy as np
from jax import Array

from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS, pad_frames, pad_space, token_grid
from skipsr_jax.inference.finite_check import check_logits
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Mask
from skipsr_jax.media.resize import area_down, resize
from skipsr_jax.tokens.criterion import cover, dilate, needs_refinement, patch_mse
from skipsr_jax.types import Bool, Float, HostArray

EQ1_FACTOR = 4
"""The operators D and U of Eq. 1 downsample and upsample by this factor."""
INPUT_FACTOR = 2
"""The same for the ``input`` source, whose pixels have lost the finest octaves already."""
LOGIT_OFFSETS = (
    (1.25, -1.75), (1.5, -0.25), (1.75, -0.75), (2.0, 1.75), (2.5, -0.25), (3.0, 0.75), (4.0, 0.0),
)  # fmt: skip
"""Pairs of a factor and the offset of the logits of the pixel-space predictor, trained at 4.

Detail that an input of another factor lacks is another fraction of what its finest bands hold. An
offset is the logit above which F1 of the patches of 21 training clips and pictures together is
largest, in steps of 0.25. Factors of 6 and 8 need none.
"""


def to_unit_range(frames: HostArray) -> Float[HostArray, "f h w 3"]:
    """uint8 or uint16 on their full scale -> float32 in [0, 1]."""
    return frames.astype(np.float32) * np.float32(1 / np.iinfo(frames.dtype).max)


def dense(grid: tuple[int, int, int]) -> Bool[HostArray, "t r q"]:
    """Every patch runs."""
    return np.ones(grid, bool)


def from_logits(logits: Float[HostArray, "t r q"], probability: float) -> Bool[HostArray, "t r q"]:
    """Patches whose predicted probability of needing refinement is at least ``probability``."""
    if probability <= 0:
        return np.ones(logits.shape, bool)
    if probability >= 1:
        return np.zeros(logits.shape, bool)
    return logits.astype(np.float32) >= np.float32(np.log(probability / (1 - probability)))


def from_reference(frames: Float[HostArray, "f h w 3"], tau: float) -> Bool[HostArray, "t r q"]:
    """Eq. 1 on the true frames (pixels in [0, 1], at the target size), padded as the input is."""
    frames = pad_space(pad_frames(frames))
    rebuilt = resize(area_down(frames, EQ1_FACTOR), frames.shape[1:3], "bilinear")
    return needs_refinement(patch_mse(frames, rebuilt), tau)


def _working_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The size at which the input is looked at: its own, but at most a quarter of the target."""
    quarter = tuple(max(1, round(side / EQ1_FACTOR)) for side in target)
    return min(size[0], quarter[0]), min(size[1], quarter[1])


def logit_offset(size: tuple[int, int], target: tuple[int, int]) -> float:
    """What the pixel-space predictor's logits exceed the ones of this factor by, on average.

    Args:
      size, target: (height, width) of the input and of the output; their ratios' geometric mean is
        the factor.
    """
    factor = math.sqrt(target[0] / size[0] * target[1] / size[1])
    factors, offsets = zip(*LOGIT_OFFSETS, strict=True)
    return float(np.interp(math.log(factor), np.log(factors), offsets))


def input_mse(
    frames: Float[HostArray, "f h w 3"], target: tuple[int, int]
) -> Float[HostArray, "t r q"]:
    """Eq. 1's mean squared error on the low-resolution input, per patch of the target.

    The input (pixels in [0, 1]) is compared with its own 2x area-reduced, bilinearly enlarged copy.
    A patch spans 16 / scale input pixels: 4 x 4 at the usual scale of 4, averaged over its 4 frames
    (1 for the first). An input nearer to the target than that is first area-reduced to a
    quarter of it, so that the threshold keeps its meaning; a smaller one is taken as it is.
    """
    count, height, width, _ = frames.shape
    working = _working_size((height, width), target)
    frames = resize(frames, working, "area")
    padded = pad_space(frames, INPUT_FACTOR)
    rebuilt = resize(area_down(padded, INPUT_FACTOR), padded.shape[1:3], "bilinear")
    squared = padded - rebuilt
    squared = np.square(squared[:, : working[0], : working[1]]).mean(axis=-1)

    _, rows, columns = token_grid(count, *target)
    along_height = cover(rows, PATCH_PIXELS, working[0], target[0])
    along_width = cover(columns, PATCH_PIXELS, working[1], target[1])
    error = pad_frames((along_height @ squared @ along_width.T)[..., None])[..., 0]
    later = error[1:].reshape(-1, PATCH_FRAMES, rows, columns).mean(axis=1)
    return np.concatenate([error[:1], later])


def from_input(
    frames: Float[HostArray, "f h w 3"], target: tuple[int, int], tau: float
) -> Bool[HostArray, "t r q"]:
    """Patches whose ``input_mse`` lies above ``tau``."""
    return needs_refinement(input_mse(frames, target), tau)


def keep_mask(
    mask: Mask,
    programs: Programs,
    frames: HostArray,
    truth: HostArray | None,
    target: tuple[int, int],
) -> Callable[[Float[Array, "1 t h w c"] | None], Bool[HostArray, "t r q"]]:
    """Begins to find which patches of a chunk run, and returns a function that gives the mask.

    A predictor in pixel space starts on the device at once, so that the mask is there when the
    device has been given other work in the meantime. The function takes the latent of the
    low-quality input, which a predictor on latents needs; else it may be None.

    Args:
      mask: the source, not auto, and its threshold.
      programs: of a model with a predictor, for source ``predictor``.
      frames: the input before upscaling, (f, h, w, 3) uint8 or uint16.
      truth: the true frames at the target size, for source ``oracle``; else None.
      target: (height, width) in pixels.
    """
    from_pixels = mask.source == "predictor" and programs.masks_from_pixels
    logits = programs.pixel_logits(pad_frames(frames), target) if from_pixels else None

    def thresholded(logits: Float[HostArray, "t r q"]) -> Bool[HostArray, "t r q"]:
        check_logits(logits, programs.model.predictor_source, programs.model.dit.dtype)
        return from_logits(logits, mask.probability)

    def make(latent: Array | None) -> Bool[HostArray, "t r q"]:
        match mask.source:
            case "predictor" if from_pixels:
                offset = logit_offset(frames.shape[1:3], target)
                return thresholded(np.asarray(logits)[0] - np.float32(offset))
            case "predictor":
                return thresholded(np.asarray(programs.latent_logits(latent))[0])
            case "input":
                return from_input(to_unit_range(frames), target, mask.input_tau)
            case "oracle":
                return from_reference(to_unit_range(truth), mask.oracle_tau)
            case "none":
                return dense(token_grid(len(frames), *target))
            case source:
                raise ValueError(f"there is no mask source {source!r}")

    return lambda latent: dilate(make(latent), mask.dilate)
