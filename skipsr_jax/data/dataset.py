"""Training batches: random crops of random clips, their low-quality pairs, masks and token plans.

Two kinds of batch alternate in a stated ratio: clips of ``frames`` frames and single pictures. Each
kind has one shape, so each is one compiled program. Or there is one kind, whose sequences hold
clips and pictures of several stated shapes together (Dehghani et al. 2023, NaViT): again one
program. Everything random is a function of (seed, index): the same batches come with any number of
workers, and after a resume from the iterator's state. Samples are windows of clips
(skipsr_jax.data.crops), flipped in width half of the time; pictures also serve as clips
(``pan_share``).

``skipsr_jax.data.batch.Batch`` says what a batch holds.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import flags

from skipsr_jax.data.batch import Batch
from skipsr_jax.data.crops import ClipShape, random_crop, soft_crop
from skipsr_jax.data.degradation.degrade import Degradation, degraded, low_quality
from skipsr_jax.data.degradation.levels import RealWorld
from skipsr_jax.data.oracle import oracle_error, oracle_mask
from skipsr_jax.data.packing import Packing, bucket_of, drop_tokens
from skipsr_jax.data.source import Source
from skipsr_jax.errors import UserError, imports_of_extra
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.criterion import needs_refinement
from skipsr_jax.tokens.plan import TokenPlan, build_plan, stack_plans
from skipsr_jax.types import Bool, Float, HostArray, UInt8

with imports_of_extra("train"):
    import grain


class Sample(NamedTuple):
    """One sample of a batch: entries as in Batch, without the axis of samples.

    ``keep``: the tokens that run, bool (t, r, q); None where the batch has no plan.
    """

    hr: UInt8[HostArray, "f h w 3"]
    lr: UInt8[HostArray, "f h2 w2 3"]
    error: Float[HostArray, "t r q"] | None = None
    mask: Bool[HostArray, "t r q"] | None = None
    keep: Bool[HostArray, "t r q"] | None = None
    negative: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training sample is; see the module's first lines.

    ``degradation`` makes the low-quality pair; the mask follows it when it is real-world.
    ``soft_share``: share of the samples whose truth is enlarged, up to ``SOFTEST`` times.
    ``mixed``: the shapes that share each sequence; ``video`` and ``image`` are not used then.
    """

    video: ClipShape
    image: ClipShape | None
    image_share: float = 0.0
    pan_share: float = 0.3
    soft_share: float = 0.0
    scale: int = 4
    degradation: Degradation = "area"
    masks: bool = True
    packing: Packing | None = None
    cache: str | None = None
    seed: int = 0
    mixed: tuple[ClipShape, ...] = ()

    @property
    def kinds(self) -> dict[str, tuple[ClipShape, ...]]:
        """The shapes in each kind of batch, by the name of the setting that counts them."""
        if self.mixed:
            return {"batch": self.mixed}
        of_pictures = {"image_batch": (self.image,)} if self.image and self.image_share else {}
        return {"batch": (self.video,)} | of_pictures


def _sample(source: Source, rng: np.random.Generator, shape: ClipShape, recipe: Recipe) -> Sample:
    soft = recipe.soft_share > 0 and rng.random() < recipe.soft_share
    frames = (soft_crop if soft else random_crop)(source, shape, rng, recipe.cache)
    if rng.random() < 0.5:
        frames = np.ascontiguousarray(frames[:, :, ::-1])
    small = degraded(frames, recipe.scale, recipe.degradation, rng)
    sample = Sample(frames, small)
    if recipe.masks:
        real = isinstance(recipe.degradation, RealWorld)
        error = oracle_error(frames, recipe.scale, small=small if real else None)
        sample = sample._replace(error=error, mask=needs_refinement(error))
    if recipe.packing is not None:
        keep = drop_tokens(sample.mask, recipe.packing, rng)
        negative = bool(rng.random() < recipe.packing.negative_share)
        sample = sample._replace(keep=keep, negative=negative)
    return sample


def _collate(groups: Sequence[Sequence[Sample]], bucket: Bucket | None, recipe: Recipe) -> Batch:
    """A batch of these samples, those of one shape in each group."""

    def stacked(name: str) -> tuple[HostArray, ...] | None:
        if getattr(groups[0][0], name) is None:
            return None
        return tuple(np.stack([getattr(sample, name) for sample in group]) for group in groups)

    batch = Batch(**{name: stacked(name) for name in ("hr", "lr", "error", "mask")})
    packing = recipe.packing
    if packing is None:
        return batch
    number = sum(len(samples) for samples in groups) // packing.samples
    packs: list[list[Sample]] = [[] for _ in range(number)]
    for samples in groups:
        for index, sample in enumerate(samples):
            packs[index * number // len(samples)].append(sample)
    slots = max(packing.text_lengths)

    def plans(negative: Bool[HostArray, "b k"]) -> TokenPlan:
        lengths = np.where(negative, packing.text_lengths[1], packing.text_lengths[0])
        return stack_plans(
            [
                build_plan([sample.keep for sample in pack], texts.tolist(), bucket, slots)
                for pack, texts in zip(packs, lengths, strict=True)
            ]
        )

    negative = np.array([[sample.negative for sample in pack] for pack in packs])
    batch = batch._replace(negative=negative, plan=plans(negative))
    return batch._replace(negative_plan=plans(np.ones_like(negative))) if packing.guided else batch


def with_masks(batch: Batch, scale: int) -> Batch:
    """The batch with Eq. 1's masks on the truth, if it has none yet."""
    if batch.mask is not None:
        return batch
    masks = tuple(np.stack([oracle_mask(clip, scale) for clip in clips]) for clips in batch.hr)
    return batch._replace(mask=masks)


def plain_batch(
    clips: Sequence[UInt8[HostArray, "f h w 3"]], recipe: Recipe, dense: bool = False
) -> Batch:
    """These clips of one shape with nothing drawn at random: for measures that repeat.

    Area downsampling, positive texts, Eq. 1's masks on the truth; everything kept if ``dense``.
    Each clip has a sequence of its own. The bucket is the same in both cases.
    """
    samples: list[Sample] = []
    for clip in clips:
        mask = oracle_mask(clip, recipe.scale)
        mask = np.ones_like(mask) if dense else mask
        keep = mask if mask.any() else _first_only(mask)
        samples.append(Sample(clip, low_quality(clip, recipe.scale), mask=mask, keep=keep))
    bucket = None
    if recipe.packing is not None:
        alone = dataclasses.replace(recipe.packing, samples=1, kept_share=1.0)
        recipe = dataclasses.replace(recipe, packing=alone)
        bucket = bucket_of([ClipShape(1, *clips[0].shape[:3])], alone)
    return _collate([samples], bucket, recipe)


def _first_only(mask: Bool[HostArray, "t r c"]) -> Bool[HostArray, "t r c"]:
    """One patch, because a plan has to have one."""
    only = np.zeros_like(mask)
    only.flat[0] = True
    return only


Found = Sequence[tuple[float, Sequence[Source]]]
"""Where the samples of a shape come from: (share of the samples, sources)."""


def _samples(number: int, shape: ClipShape, found: Found, recipe: Recipe) -> grain.MapDataset:
    """Endless samples of one shape, the batch's shape ``number``, each shape with its own luck."""
    seed = recipe.seed + 1000 * number
    datasets = [
        grain.MapDataset.source(list(sources)).seed(seed + i).shuffle().repeat()
        for i, (_, sources) in enumerate(found)
    ]
    mixed = grain.MapDataset.mix(datasets, [share for share, _ in found])
    return mixed.seed(seed + 7 * shape.frames).random_map(
        functools.partial(_sample, shape=shape, recipe=recipe)
    )


def _kind(
    shapes: Sequence[ClipShape], found: Sequence[Found], recipe: Recipe, hosts: tuple[int, int]
) -> grain.MapDataset:
    """Endless batches of one kind; ``found`` says where the samples of each shape come from."""
    index, count = hosts
    for shape in shapes:
        if shape.batch % count:
            raise UserError(f"batch {shape.batch} does not divide over {count} hosts")
    packing, total = recipe.packing, sum(shape.batch for shape in shapes)
    if packing is not None and (total // count) % packing.samples:
        raise UserError(
            f"batch {total} over {count} hosts does not divide into sequences of "
            f"{packing.samples} samples"
        )
    # Host i has the i-th part of each batch, so that a batch is the same for any number of hosts.
    groups = [
        _samples(number, shape, of_shape, recipe).batch(
            shape.batch // count, drop_remainder=True, batch_fn=list
        )
        for number, (shape, of_shape) in enumerate(zip(shapes, found, strict=True))
    ]
    bucket = None if packing is None else bucket_of(shapes, packing)
    collate = functools.partial(_collate, bucket=bucket, recipe=recipe)
    endless = min(len(group) for group in groups)
    together = grain.experimental.ZipMapDataset([group[:endless] for group in groups])
    return together.map(collate)[index::count]


def _that_hold(sources: Sequence[Source], shape: ClipShape, frames: int) -> list[Source]:
    fit = [
        s
        for s in sources
        if s.longest >= frames and s.height >= shape.height and s.width >= shape.width
    ]
    if len(fit) < len(sources):
        logging.info(
            "%d of %d clips are too small or too short for %d x %d x %d: left out",
            len(sources) - len(fit), len(sources), frames, shape.height, shape.width,
        )  # fmt: skip
    return fit


def batches(
    sources: Sequence[Source], recipe: Recipe, hosts: tuple[int, int] = (0, 1)
) -> grain.MapDataset:
    """All batches of this host, by index. ``hosts`` = (this host, number of hosts).

    Raises UserError when no clip is large and long enough for a kind of batch.
    """
    pictures = [s for s in sources if s.kind == "image"]
    videos = [s for s in sources if s.kind != "image"]

    def of_clips(shape: ClipShape) -> Found:
        groups = [(1 - recipe.pan_share, _that_hold(videos, shape, shape.frames))]
        if recipe.pan_share:
            groups.append((recipe.pan_share, _that_hold(pictures, shape, 1)))
        groups = [(share, fit) for share, fit in groups if fit and share > 0]
        if not groups:
            raise UserError(
                f"none of {len(videos)} videos and {len(pictures)} pictures holds {shape.frames} "
                f"frames of {shape.height} x {shape.width}: lower the crop or add data"
            )
        return groups

    def of_pictures(shape: ClipShape, wanted_by: str) -> Found:
        fit = _that_hold(pictures, shape, 1)
        if not fit:
            raise UserError(
                f"{wanted_by}, but none of {len(pictures)} pictures holds "
                f"{shape.height} x {shape.width}: lower the crop or add pictures"
            )
        return [(1.0, fit)]

    if recipe.mixed:
        found = [
            of_pictures(shape, "data.pack has pictures") if shape.frames == 1 else of_clips(shape)
            for shape in recipe.mixed
        ]
        return _kind(recipe.mixed, found, recipe, hosts)
    kinds = [_kind([recipe.video], [of_clips(recipe.video)], recipe, hosts)]
    weights = [1 - recipe.image_share]
    if recipe.image is not None and recipe.image_share > 0:
        found = of_pictures(recipe.image, f"image_share is {recipe.image_share}")
        kinds.append(_kind([recipe.image], [found], recipe, hosts))
        weights.append(recipe.image_share)
    if weights[0] <= 0:
        kinds, weights = kinds[1:], weights[1:]
    return grain.MapDataset.mix(kinds, weights)


def iterate(
    dataset: grain.MapDataset, workers: int, start: int = 0, threads: int = 4
) -> grain.DatasetIterator:
    """Batches ``start``, ``start + 1``, ... in order.

    They are prepared ahead by ``workers`` processes (0: by ``threads`` threads here).

    A batch depends on its number alone, so the number is all that a resumed run needs to know, with
    other workers and other hosts too.
    """
    dataset = dataset[start:]
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    if workers == 0:
        return iter(dataset.to_iter_dataset(read_options))
    if not flags.FLAGS.is_parsed():  # grain reads a flag of its own; outside absl.app nobody parses
        flags.FLAGS.mark_as_parsed()
    read_options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    return iter(dataset.to_iter_dataset(read_options).mp_prefetch(options))
