"""Real-world degradation: what happens to a clip between a camera and the file that a user has.

Two rounds of blur, resize, noise and JPEG (the second-order model of Real-ESRGAN, Wang et al.
2021), then the target size, then video compression for clips. The levels are ranges and shares in
``RealWorld``; ``draw`` picks the parameters of one clip and ``apply`` carries them out on all its
frames. Invariant: the result is a function of the clip and the random generator alone.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

from skipsr_jax.config import require, require_between
from skipsr_jax.data import blur, noise
from skipsr_jax.data import compression as codec
from skipsr_jax.media.resize import Method, resize
from skipsr_jax.types import Float, HostArray, UInt8

Range = tuple[float, float]
Shares = tuple[float, float, float]
RESIZES: tuple[Method, ...] = ("area", "bilinear", "bicubic")


def _check_range(
    name: str, pair: Range | tuple[int, int], low: float | int, high: float | int
) -> None:
    good = low <= pair[0] <= pair[1] <= high
    require(good, name, pair, f"(low, high) within {low} .. {high}")


def _check_weights(name: str, weights: Shares) -> None:
    good = min(weights) >= 0 and sum(weights) > 0
    require(good, name, weights, "weights of at least 0, one of them above 0")


@dataclasses.dataclass(frozen=True)
class Round:
    """Levels of one round. A share is a probability; a range is uniform unless said otherwise.

    Attributes:
      blur_share: clips that are blurred at all.
      blur_kinds: weights of isotropic Gaussian, anisotropic Gaussian and sinc blur.
      blur_radius: of all kernels, in pixels.
      blur_sigma: of the Gaussians, in pixels.
      sinc_cutoff: in radians per pixel.
      resize: the size after the round over the size before it (for the second round: over the
        target size), logarithmic.
      noise_share: clips that get noise.
      poisson_share: of these, the ones with Poisson noise; the others get Gaussian.
      gray_share: of these, the ones whose channels share the noise.
      noise_sigma: of Gaussian noise, in 1/255 of white.
      photons: at white, of Poisson noise; logarithmic.
      jpeg_share: clips that pass through JPEG.
      jpeg_quality: 1 to 95.
    """

    blur_share: float = 1.0
    blur_kinds: Shares = (0.6, 0.3, 0.1)
    blur_radius: int = 10
    blur_sigma: Range = (0.2, 3.0)
    sinc_cutoff: Range = (math.pi / 5, math.pi)
    resize: Range = (0.25, 1.5)
    noise_share: float = 0.9
    poisson_share: float = 0.5
    gray_share: float = 0.4
    noise_sigma: Range = (1.0, 20.0)
    photons: Range = (100.0, 4000.0)
    jpeg_share: float = 0.9
    jpeg_quality: tuple[int, int] = (30, 95)

    def __post_init__(self):
        for name in ("blur_share", "noise_share", "poisson_share", "gray_share", "jpeg_share"):
            require_between(name, getattr(self, name), 0, 1)
        _check_weights("blur_kinds", self.blur_kinds)
        require_between("blur_radius", self.blur_radius, 0, 32, "pixels")
        _check_range("blur_sigma", self.blur_sigma, 0.05, 32)
        _check_range("sinc_cutoff", self.sinc_cutoff, 0.1, math.pi)
        _check_range("resize", self.resize, 0.05, 4)
        _check_range("noise_sigma", self.noise_sigma, 0, 255)
        _check_range("photons", self.photons, 1, 1e6)
        _check_range("jpeg_quality", self.jpeg_quality, 1, 95)


@dataclasses.dataclass(frozen=True)
class RealWorld:
    """Levels of the whole pipeline.

    Attributes:
      first, second: the two rounds.
      video_share: clips that are compressed as videos at the end; pictures never are.
      video_codecs: weights of H.264, HEVC and MPEG-4.
      crf: constant rate factor of H.264 and HEVC, 0 (best) to 51.
      mpeg4_quantizer: 1 (best) to 31.
    """

    first: Round = Round()
    second: Round = Round(
        blur_share=0.8,
        blur_sigma=(0.2, 1.5),
        resize=(0.6, 1.5),
        noise_share=0.8,
        noise_sigma=(1.0, 12.0),
        photons=(200.0, 4000.0),
    )
    video_share: float = 0.8
    video_codecs: Shares = (0.5, 0.3, 0.2)
    crf: tuple[int, int] = (18, 34)
    mpeg4_quantizer: tuple[int, int] = (2, 12)

    def __post_init__(self):
        require_between("video_share", self.video_share, 0, 1)
        _check_weights("video_codecs", self.video_codecs)
        _check_range("crf", self.crf, 0, 51)
        _check_range("mpeg4_quantizer", self.mpeg4_quantizer, 1, 31)


@dataclasses.dataclass(frozen=True)
class DrawnRound:
    """One clip's parameters of a round; None leaves a part out."""

    kernel: Float[HostArray, "k k"] | None
    factor: float
    method: Method
    noise: Literal["gaussian", "poisson"] | None
    noise_level: float
    gray: bool
    jpeg_quality: int | None


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One clip's parameters; ``video`` is (codec, quality) or None."""

    first: DrawnRound
    second: DrawnRound
    method: Method
    video: tuple[codec.VideoCodec, int] | None


def _log_uniform(rng: np.random.Generator, pair: Range) -> float:
    return math.exp(rng.uniform(math.log(pair[0]), math.log(pair[1])))


def _choice(rng: np.random.Generator, weights: Shares) -> int:
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
    """The parameters of one clip."""
    first, second = _draw_round(levels.first, rng), _draw_round(levels.second, rng)
    method = _method(rng)
    if rng.random() >= levels.video_share:
        return Drawn(first, second, method, None)
    name = codec.VIDEO_CODECS[_choice(rng, levels.video_codecs)]
    low, high = levels.mpeg4_quantizer if name == "mpeg4" else levels.crf
    return Drawn(first, second, method, (name, int(rng.integers(low, high + 1))))


def _bytes(frames: Float[HostArray, "f h w 3"]) -> UInt8[HostArray, "f h w 3"]:
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
        frames = codec.jpeg(_bytes(frames), drawn.jpeg_quality).astype(np.float32)
    return frames


def apply(
    frames: UInt8[HostArray, "f h w 3"], scale: int, drawn: Drawn, rng: np.random.Generator
) -> UInt8[HostArray, "f h2 w2 3"]:
    """The clip ``scale`` times smaller with the drawn parameters; ``rng`` gives the noise.

    Raises ValueError when a side is no multiple of ``scale``.
    """
    _, height, width, _ = frames.shape
    if scale < 1 or height % scale or width % scale:
        raise ValueError(f"{height} x {width} frames: crop them to multiples of {scale}")
    target = height // scale, width // scale
    pixels = frames.astype(np.float32)
    pixels = _apply_round(pixels, drawn.first, (height, width), rng)
    pixels = _apply_round(pixels, drawn.second, target, rng)
    small = _bytes(resize(pixels, target, drawn.method))
    if drawn.video is None or len(small) == 1:
        return small
    return codec.compress(small, *drawn.video)
