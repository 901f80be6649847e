"""The levels of real-world degradation: probabilities and ranges, as a config states them.

``LEVELS`` names some: what a light, a medium and a hard case are.
"""

import dataclasses
import math

from skipsr_jax.config import require, require_between

Range = tuple[float, float]
"""Lowest and highest value."""
Weights = tuple[float, float, float]
"""Relative probabilities of three kinds; they need not sum to one."""


def _check_range(
    name: str, pair: Range | tuple[int, int], low: float | int, high: float | int
) -> None:
    good = low <= pair[0] <= pair[1] <= high
    require(good, name, pair, f"(low, high) within {low} .. {high}")


def _check_weights(name: str, weights: Weights) -> None:
    good = min(weights) >= 0 and sum(weights) > 0
    require(good, name, weights, "weights of at least 0, one of them above 0")


@dataclasses.dataclass(frozen=True)
class Round:
    """Levels of one round: probabilities (``_share``), and ranges that are drawn from uniformly.

    Attributes:
      blur_share: probability that a clip is blurred.
      blur_kinds: relative probabilities of isotropic Gaussian, anisotropic Gaussian and sinc blur.
      blur_radius: radius of all kernels, in pixels.
      blur_sigma: standard deviation of the Gaussians, in pixels.
      sinc_cutoff: cutoff frequency of the sinc filter, in radians per pixel.
      resize: the size after the round over the size before it (for the second round: over the
        target size); drawn uniformly in its logarithm.
      noise_share: probability that a clip gets noise.
      poisson_share: probability that the noise is Poisson noise; else it is Gaussian.
      gray_share: probability that the channels have the noise in common.
      noise_sigma: standard deviation of Gaussian noise, in 1/255 of white.
      photons: photons that the sensor of Poisson noise counts at white; drawn uniformly in its
        logarithm.
      jpeg_share: probability that a clip passes through JPEG.
      jpeg_quality: quality of JPEG, 1 to 95.

    Raises ValueError when a value is out of range.
    """

    blur_share: float = 1.0
    blur_kinds: Weights = (0.6, 0.3, 0.1)
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
      video_share: probability that a clip is compressed as a video at the end; pictures never are.
      video_codecs: relative probabilities of H.264, HEVC and MPEG-4.
      crf: constant rate factor of H.264 and HEVC, 0 (best) to 51.
      mpeg4_quantizer: quantizer of MPEG-4, 1 (best) to 31.

    Raises ValueError when a value is out of range.
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
    video_codecs: Weights = (0.5, 0.3, 0.2)
    crf: tuple[int, int] = (18, 34)
    mpeg4_quantizer: tuple[int, int] = (2, 12)

    def __post_init__(self):
        require_between("video_share", self.video_share, 0, 1)
        _check_weights("video_codecs", self.video_codecs)
        _check_range("crf", self.crf, 0, 51)
        _check_range("mpeg4_quantizer", self.mpeg4_quantizer, 1, 31)


_NO_SECOND = Round(blur_share=0.0, resize=(1.0, 1.0), noise_share=0.0, jpeg_share=0.0)

LEVELS = {
    "light": RealWorld(
        first=Round(
            blur_share=0.5,
            blur_sigma=(0.2, 0.8),
            resize=(0.8, 1.1),
            noise_share=0.3,
            noise_sigma=(0.5, 3.0),
            photons=(2000.0, 20000.0),
            jpeg_share=0.3,
            jpeg_quality=(75, 95),
        ),
        second=_NO_SECOND,
        video_share=0.7,
        crf=(16, 26),
        mpeg4_quantizer=(2, 4),
    ),
    "medium": RealWorld(
        first=Round(
            blur_share=0.8,
            blur_sigma=(0.2, 1.6),
            resize=(0.5, 1.2),
            noise_share=0.6,
            noise_sigma=(1.0, 8.0),
            photons=(500.0, 8000.0),
            jpeg_share=0.6,
            jpeg_quality=(50, 95),
        ),
        second=dataclasses.replace(_NO_SECOND, blur_share=0.3, blur_sigma=(0.2, 0.8)),
        video_share=0.8,
        crf=(20, 30),
        mpeg4_quantizer=(2, 8),
    ),
    "hard": RealWorld(),
}
"""Named levels: of a file that was saved once with care; of footage that was resized and compressed
once or twice; and the ranges of Real-ESRGAN's training."""
