"""One training sample: a random crop of a clip, its low-quality pair, and its masks.

Crops (skipsr_jax.data.crops) are flipped in width half of the time. Invariant: a sample is a
function of its clip, its recipe and the random generator alone.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from skipsr_jax.data.crops import ClipShape, random_crop, soft_crop
from skipsr_jax.data.degradation.degrade import Degradation, Kind, degraded, drawn_kind, low_size
from skipsr_jax.data.degradation.levels import RealWorld
from skipsr_jax.data.oracle import oracle_error
from skipsr_jax.data.packing import Packing, drop_tokens
from skipsr_jax.data.source import Source
from skipsr_jax.media.resize import resize, upscale
from skipsr_jax.tokens.criterion import needs_refinement
from skipsr_jax.types import Bool, Float, HostArray, UInt8


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What training samples are made of, and which batches they form.

    Attributes:
      video, image: shapes of the batches of clips and of pictures.
      image_share: fraction of the batches that hold pictures.
      pan_share: fraction of the clips that are pans over pictures.
      soft_share: fraction of the samples whose high-quality frames are enlarged (`soft_crop`).
      largest_step: the largest step between two frames of a clip, see ``crops.frame_offsets``.
      scale: by which the low-quality frames are smaller.
      factors: (factor, relative probability) of what stands in place of ``scale``; (): ``scale``.
      one_size: whether the low-quality frames of all factors come upscaled to the size of the
        high-quality ones, rounded to 8 bits, so that batches mix factors in one compiled program.
        Else the samples of a batch have one factor.
      degradation: what makes them; the oracle mask follows it when it is real-world.
      masks: whether samples have oracle masks.
      packing: how kept tokens form sequences; None for batches without token plans.
      cache: folder of decoded clips, see `reading.read`.
      seed: of everything that is drawn at random.
      strict: whether a clip that cannot be read is an error; else another one stands in for it.
      mixed: the shapes that share each sequence; ``video`` and ``image`` are not used then.
    """

    video: ClipShape
    image: ClipShape | None
    image_share: float = 0.0
    pan_share: float = 0.3
    soft_share: float = 0.0
    largest_step: int = 1
    scale: int = 4
    factors: tuple[tuple[float, float], ...] = ()
    one_size: bool = True
    degradation: Degradation = "area"
    masks: bool = True
    packing: Packing | None = None
    cache: str | None = None
    seed: int = 0
    strict: bool = False
    mixed: tuple[ClipShape, ...] = ()

    @property
    def kinds(self) -> dict[str, tuple[ClipShape, ...]]:
        """The shapes in each kind of batch, by the name of the setting that counts them."""
        if self.mixed:
            return {"batch": self.mixed}
        of_pictures = {"image_batch": (self.image,)} if self.image and self.image_share else {}
        return {"batch": (self.video,)} | of_pictures


class Sample(NamedTuple):
    """One sample of a batch: entries as in Batch, without the axis of samples.

    Attributes:
      hr, lr: high-quality and low-quality frames, 0..255.
      error: the left side of Eq. 1 for each patch; None without masks.
      mask: true where the patch needs refinement; None without masks.
      keep: true where the token runs; None where the batch has no plan.
      negative: whether the sample takes the negative text.
    """

    hr: UInt8[HostArray, "f h w 3"]
    lr: UInt8[HostArray, "f h2 w2 3"]
    error: Float[HostArray, "t r q"] | None = None
    mask: Bool[HostArray, "t r q"] | None = None
    keep: Bool[HostArray, "t r q"] | None = None
    negative: bool = False


def make_sample(
    source: Source, rng: np.random.Generator, shape: ClipShape, recipe: Recipe
) -> Sample:
    """Draws a crop of the clip and what belongs to it; ``rng`` gives everything random."""
    soft = recipe.soft_share > 0 and rng.random() < recipe.soft_share
    crop = soft_crop if soft else random_crop
    frames = crop(source, shape, rng, recipe.cache, recipe.largest_step)
    if rng.random() < 0.5:
        frames = np.ascontiguousarray(frames[:, :, ::-1])
    kind, factor = drawn_kind(recipe.degradation, rng), _factor(recipe, rng)
    small = degraded(frames, factor, kind, rng)
    mixes_sizes = recipe.one_size and len(recipe.factors) > 1
    sample = Sample(frames, _at_size_of(frames, small) if mixes_sizes else small)
    if recipe.masks:
        error = _error(frames, small, kind, factor)
        sample = sample._replace(error=error, mask=needs_refinement(error))
    if recipe.packing is not None:
        keep = drop_tokens(sample.mask, recipe.packing, rng)
        negative = bool(rng.random() < recipe.packing.negative_share)
        sample = sample._replace(keep=keep, negative=negative)
    return sample


def _factor(recipe: Recipe, rng: np.random.Generator) -> int | float:
    """By which the low-quality frames of a sample are smaller: an int where it is the only one."""
    if not recipe.factors:
        return recipe.scale
    weights = np.array([weight for _, weight in recipe.factors])
    return float(recipe.factors[int(rng.choice(len(weights), p=weights / weights.sum()))][0])


def _at_size_of(
    frames: UInt8[HostArray, "f h w 3"], small: UInt8[HostArray, "f h2 w2 3"]
) -> UInt8[HostArray, "f h w 3"]:
    """The upscaled input, rounded to 8 bits: that of inference is not."""
    return np.rint(255 * upscale(small, frames.shape[1:3])).astype(np.uint8)


def _error(
    frames: UInt8[HostArray, "f h w 3"],
    small: UInt8[HostArray, "f h2 w2 3"],
    kind: Kind,
    factor: int | float,
) -> Float[HostArray, "t r q"]:
    """The left side of Eq. 1 for what was done to the frames.

    D is what was done where that is real-world: a patch that shows noise is not skippable. A clean
    reduction by whatever method counts as area downsampling, as in the paper.
    """
    if isinstance(kind, RealWorld):
        return oracle_error(frames, small=small)
    if isinstance(factor, int):
        return oracle_error(frames, factor)
    size = low_size(frames.shape[1:3], factor)
    return oracle_error(frames, small=resize(frames.astype(np.float32), size, "area"))
