"""Makes the keep mask of a chunk. ``keep_mask`` chooses the source, with one function per source.

True marks a patch that runs. All functions work on the host; only the predictor's logits are
downloaded from the device (a few kB). Sources: ``predictor`` (paper section 4.2, on the latent, or
on the input frames where the checkpoint has a predictor in pixel space), ``oracle`` (Eq. 1 on the
true high-resolution frames), ``input`` (Eq. 1's idea on the input itself, no training needed) and
``none`` (every patch runs). A new source takes a function here, a branch in ``keep_mask`` and a
name in ``settings.MASK_SOURCES``.
"""

import numpy as np
from jax import Array

from skipsr_jax.geometry import PATCH_FRAMES, PATCH_PIXELS, pad_frames, pad_space, token_grid
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Mask
from skipsr_jax.media.resize import area_down, resize
from skipsr_jax.models.predictor import LOW_RES_PATCH_PIXELS
from skipsr_jax.tokens.criterion import dilate, needs_refinement, patch_mse
from skipsr_jax.types import Bool, Float, HostArray

EQ1_FACTOR = 4
"""The operators D and U of Eq. 1 downsample and upsample by this factor."""
INPUT_FACTOR = 2
"""The same for the ``input`` source, whose pixels have lost the finest octaves already."""


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


def _cover(patches: int, pixels: int, target: int) -> Float[HostArray, "patches pixels"]:
    """Mean over what each patch covers, along one axis, as a matrix.

    ``pixels`` input pixels span ``target`` output pixels; patch i covers output pixels 16i to
    16i + 16, as far as they exist. Rows sum to one.
    """
    edges = np.minimum(np.arange(patches + 1) * PATCH_PIXELS, target) * (pixels / target)
    low, high = edges[:-1, None], edges[1:, None]
    at = np.arange(pixels)
    overlap = np.clip(np.minimum(at + 1, high) - np.maximum(at, low), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def _working_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """The size at which the input is looked at: its own, but at most a quarter of the target."""
    quarter = tuple(max(1, round(side / EQ1_FACTOR)) for side in target)
    return min(size[0], quarter[0]), min(size[1], quarter[1])


def predictor_frames(
    frames: Float[HostArray, "f h w 3"], target: tuple[int, int]
) -> Float[HostArray, "f2 h2 w2 3"]:
    """The input as the pixel-space predictor takes it: 4k + 1 frames in multiples of 4 pixels.

    An input larger than a quarter of the target is first area-reduced to that; a smaller one is
    taken as it is. The last frame, row and column are repeated.
    """
    frames = pad_frames(resize(frames, _working_size(frames.shape[1:3], target), "area"))
    return pad_space(frames, LOW_RES_PATCH_PIXELS)


def on_token_grid(
    logits: Float[HostArray, "t h w"], size: tuple[int, int], target: tuple[int, int]
) -> Float[HostArray, "t r q"]:
    """The pixel-space predictor's logits, brought to the token grid of the target.

    The predictor gives one logit for 4 x 4 pixels of ``predictor_frames``. Each patch of the target
    takes the one in which its middle lies; at a scale of 4 the two grids are the same.

    Args:
      logits: of ``predictor_frames`` of an input of ``size``.
      size: (height, width) of the input.
      target: (height, width) to reach.
    """
    working = _working_size(size, target)
    for axis in (0, 1):
        patches = token_grid(1, *target)[1 + axis]
        middle = (np.arange(patches) + 0.5) * PATCH_PIXELS * working[axis] / target[axis]
        index = np.minimum(middle // LOW_RES_PATCH_PIXELS, logits.shape[1 + axis] - 1)
        logits = np.take(logits, index.astype(int), axis=1 + axis)
    return logits


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
    along_height = _cover(rows, working[0], target[0])
    along_width = _cover(columns, working[1], target[1])
    error = pad_frames((along_height @ squared @ along_width.T)[..., None])[..., 0]
    later = error[1:].reshape(-1, PATCH_FRAMES, rows, columns).mean(axis=1)
    return np.concatenate([error[:1], later])


def from_input(
    frames: Float[HostArray, "f h w 3"], target: tuple[int, int], tau: float
) -> Bool[HostArray, "t r q"]:
    """Patches whose ``input_mse`` lies above ``tau``."""
    return needs_refinement(input_mse(frames, target), tau)


def from_predictor(
    programs: Programs,
    latent: Float[Array, "1 t h w c"] | None,
    frames: HostArray,
    target: tuple[int, int],
    probability: float,
) -> Bool[HostArray, "t r q"]:
    """Patches that the model's predictor finds in the latent, or in the input's pixels."""
    if programs.masks_from_pixels:
        inputs = predictor_frames(to_unit_range(frames), target)[None]
        logits = np.asarray(programs.mask_logits(inputs), np.float32)[0]
        logits = on_token_grid(logits, frames.shape[1:3], target)
    else:
        logits = np.asarray(programs.mask_logits(latent), np.float32)[0]
    return from_logits(logits, probability)


def keep_mask(
    mask: Mask,
    programs: Programs,
    latent: Float[Array, "1 t h w c"] | None,
    frames: HostArray,
    truth: HostArray | None,
    target: tuple[int, int],
) -> Bool[HostArray, "t r q"]:
    """Which patches of a chunk run.

    Args:
      mask: the source and its threshold.
      programs: of a model with a predictor, for source ``predictor``.
      latent: of the low-quality input, for a predictor on latents; else None.
      frames: the input before upscaling, (f, h, w, 3) uint8 or uint16.
      truth: the true frames at the target size, for source ``oracle``; else None.
      target: (height, width) in pixels.
    """
    match mask.source:
        case "predictor":
            keep = from_predictor(programs, latent, frames, target, mask.probability)
        case "input":
            keep = from_input(to_unit_range(frames), target, mask.input_tau)
        case "oracle":
            keep = from_reference(to_unit_range(truth), mask.oracle_tau)
        case "none":
            keep = dense(token_grid(len(frames), *target))
        case source:
            raise ValueError(f"there is no mask source {source!r}")
    return dilate(keep, mask.dilate)
