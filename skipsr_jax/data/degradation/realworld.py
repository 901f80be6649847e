"""Real-world degradation: what happens to a clip between a camera and the file that a user has.

Two rounds of blur, resize, noise and JPEG (the second-order model of Real-ESRGAN, Wang et al.
2021), then the target size, then video compression for clips. ``draw`` picks the parameters of one
clip within the levels of a ``RealWorld``, and ``apply`` carries them out on all its frames.
Invariant: the result is a function of the clip and the random generator alone.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from skipsr_jax.data.degradation import blur, noise
from skipsr_jax.data.degradation import compression as codec
from skipsr_jax.data.degradation.levels import Range, RealWorld, Round, Weights
from skipsr_jax.media.resize import Method, resize
from skipsr_jax.types import Float, HostArray, UInt8

RESIZES: tuple[Method, ...] = ("area", "bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class DrawnRound:
    """One clip's parameters of a round; None leaves a part out.

    Attributes:
      kernel: what the frames are convolved with.
      factor: the size after the round over the base size, see ``Round.resize``.
      method: of resizing.
      noise, noise_level: kind of noise; its standard deviation in 1/255 of white (gaussian), or
        photons at white (poisson).
      gray: whether the channels have the noise in common.
      jpeg_quality: 1 to 95.
    """

    kernel: Float[HostArray, "k k"] | None
    factor: float
    method: Method
    noise: Literal["gaussian", "poisson"] | None
    noise_level: float
    gray: bool
    jpeg_quality: int | None


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One clip's parameters.

    Attributes:
      first, second: the two rounds.
      method: of resizing to the target size.
      video: codec and quality of the compression at the end, or None.
    """

    first: DrawnRound
    second: DrawnRound
    method: Method
    video: tuple[codec.VideoCodec, int] | None


def _log_uniform(rng: np.random.Generator, pair: Range) -> float:
    return math.exp(rng.uniform(math.log(pair[0]), math.log(pair[1])))


def _choice(rng: np.random.Generator, weights: Weights) -> int:
    return int(rng.choice(len(weights), p=np.array(weights) / sum(weights)))


def _method(rng: np.random.Generator) -> Method:
    return RESIZES[int(rng.integers(len(RESIZES)))]


def _draw_kernel(levels: Round, rng: np.random.Generator) -> Float[HostArray, "k k"]:
    kind = _choice(rng, levels.blur_kinds)
    if kind == 2:
        low, high = levels.sinc_cutoff
        return blur.sinc(levels.blur_radius, min(float(rng.uniform(low, high)), math.pi))
    sigma_x = float(rng.uniform(*levels.blur_sigma))
    if kind == 0:
        return blur.gaussian(levels.blur_radius, sigma_x, sigma_x, 0.0)
    sigma_y, angle = float(rng.uniform(*levels.blur_sigma)), float(rng.uniform(0, math.pi))
    return blur.gaussian(levels.blur_radius, sigma_x, sigma_y, angle)


def _draw_round(levels: Round, rng: np.random.Generator) -> DrawnRound:
    kernel = _draw_kernel(levels, rng) if rng.random() < levels.blur_share else None
    factor, method = _log_uniform(rng, levels.resize), _method(rng)
    kind, level, gray = None, 0.0, False
    if rng.random() < levels.noise_share:
        kind = "poisson" if rng.random() < levels.poisson_share else "gaussian"
        gray = bool(rng.random() < levels.gray_share)
        poisson = kind == "poisson"
        level = _log_uniform(rng, levels.photons) if poisson else rng.uniform(*levels.noise_sigma)
    quality = None
    if rng.random() < levels.jpeg_share:
        quality = int(rng.integers(levels.jpeg_quality[0], levels.jpeg_quality[1] + 1))
    return DrawnRound(kernel, factor, method, kind, float(level), gray, quality)


def draw(levels: RealWorld, rng: np.random.Generator) -> Drawn:
    """Draws the parameters of one clip."""
    first, second = _draw_round(levels.first, rng), _draw_round(levels.second, rng)
    method = _method(rng)
    if rng.random() >= levels.video_share:
        return Drawn(first, second, method, None)
    name = codec.VIDEO_CODECS[_choice(rng, levels.video_codecs)]
    low, high = levels.mpeg4_quantizer if name == "mpeg4" else levels.crf
    return Drawn(first, second, method, (name, int(rng.integers(low, high + 1))))


def _to_bytes(frames: Float[HostArray, "f h w 3"]) -> UInt8[HostArray, "f h w 3"]:
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def _apply_round(
    frames: Float[HostArray, "f h w 3"],
    drawn: DrawnRound,
    base: tuple[int, int],
    rng: np.random.Generator,
) -> Float[HostArray, "f h2 w2 3"]:
    """One round; it ends at ``base`` = (height, width) times the drawn factor."""
    if drawn.kernel is not None:
        frames = blur.convolve(frames, drawn.kernel)
    size = tuple(max(1, round(side * drawn.factor)) for side in base)
    frames = resize(frames, size, drawn.method)
    if drawn.noise == "gaussian":
        frames = noise.add_gaussian(frames, drawn.noise_level, drawn.gray, rng)
    elif drawn.noise == "poisson":
        frames = noise.add_poisson(frames, drawn.noise_level, drawn.gray, rng)
    if drawn.jpeg_quality is not None:
        frames = codec.jpeg(_to_bytes(frames), drawn.jpeg_quality).astype(np.float32)
    return frames


def apply(
    frames: UInt8[HostArray, "f h w 3"],
    target: tuple[int, int],
    drawn: Drawn,
    rng: np.random.Generator,
) -> UInt8[HostArray, "f h2 w2 3"]:
    """The clip at ``target`` = (height, width), with the drawn parameters and noise of ``rng``."""
    pixels = frames.astype(np.float32)
    pixels = _apply_round(pixels, drawn.first, frames.shape[1:3], rng)
    pixels = _apply_round(pixels, drawn.second, target, rng)
    small = _to_bytes(resize(pixels, target, drawn.method))
    if drawn.video is None or len(small) == 1:
        return small
    return codec.compress(small, *drawn.video)
