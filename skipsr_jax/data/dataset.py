"""Training batches: random crops of random clips, their low-quality pairs, masks and token plans.

Two kinds of batch alternate in a stated ratio: clips of ``frames`` frames and single pictures. Each
kind has one shape, so each is one compiled program. Everything random is a function of (seed,
index): the same batches come with any number of workers, and after a resume from the iterator's
state. Samples are windows of clips (skipsr_jax.data.crops), flipped in width half of the time;
pictures also serve as clips (``pan_share``).

A batch is a dict: ``hr`` uint8 (s, f, h, w, 3), ``lr`` uint8 (s, f, h/scale, w/scale, 3) and, if
asked for, ``error`` float32 (s, t, h/16, w/16), the left side of Eq. 1, and ``mask`` bool, True =
keep, where it is above tau; with a plan also ``plan`` (a TokenPlan of b packs, s = b * k samples)
and ``negative`` bool (b, k): the sample takes the negative text; for guidance also
``negative_plan``, the same tokens with the negative text in all samples.
"""

import dataclasses
import functools
import logging
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from skipsr_jax.data.crops import ClipShape, softened, window
from skipsr_jax.data.degrade import Degradation, degraded, low_quality, oracle_error, oracle_mask
from skipsr_jax.data.realworld import RealWorld
from skipsr_jax.data.source import Source
from skipsr_jax.errors import UserError
from skipsr_jax.tokens.buckets import Bucket, bucket_for
from skipsr_jax.tokens.criterion import needs_refinement
from skipsr_jax.tokens.plan import TokenPlan, build_plan, required_bucket, stack_plans
from skipsr_jax.types import Bool, HostArray, UInt8

Batch = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the kept tokens of samples become token plans.

    Attributes:
      samples: samples in one sequence.
      kept_share: room in a sequence, as a share of its samples' tokens; a sample that wants more
        loses some at random.
      dense_share: share of samples that keep every token, whatever the mask says.
      random_drop: up to this share of the kept tokens is dropped at random.
      negative_share: share of samples with the negative text.
      text_lengths: tokens of the positive and the negative text.
      shards: devices that share a sequence; its bucket is a multiple of it.
      guided: make plans with the negative text too.
    """

    samples: int = 1
    kept_share: float = 1.0
    dense_share: float = 0.1
    random_drop: float = 0.1
    negative_share: float = 0.1
    text_lengths: tuple[int, int] = (1, 1)
    shards: int = 1
    guided: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training sample is; see the module's first lines.

    ``degradation`` makes the low-quality pair; the mask follows it when it is real-world.
    ``soft_share``: share of the samples whose truth is enlarged, up to ``SOFTEST`` times.
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


def _thin(
    keep: Bool[HostArray, "t r c"], packing: Packing, rng: np.random.Generator
) -> Bool[HostArray, "t r c"]:
    """The mask as its sequence takes it: some dropped, cut to the room there is, one left."""
    if rng.random() < packing.dense_share:
        keep = np.ones_like(keep)
    kept = rng.permutation(np.flatnonzero(keep))
    drop = rng.random() * packing.random_drop
    count = min(int(np.ceil(len(kept) * (1 - drop))), _room(keep.size, packing))
    chosen = kept[:count] if len(kept) else rng.integers(keep.size, size=1)
    thinned = np.zeros(keep.size, bool)
    thinned[chosen] = True
    return thinned.reshape(keep.shape)


def _room(tokens: int, packing: Packing) -> int:
    """How many tokens one sample may keep."""
    return max(1, int(tokens * packing.kept_share))


def _sample(source: Source, rng: np.random.Generator, shape: ClipShape, recipe: Recipe) -> Batch:
    soft = recipe.soft_share > 0 and rng.random() < recipe.soft_share
    frames = (softened if soft else window)(source, shape, rng, recipe.cache)
    if rng.random() < 0.5:
        frames = np.ascontiguousarray(frames[:, :, ::-1])
    small = degraded(frames, recipe.scale, recipe.degradation, rng)
    sample: Batch = {"hr": frames, "lr": small}
    if recipe.masks:
        real = isinstance(recipe.degradation, RealWorld)
        sample["error"] = oracle_error(frames, recipe.scale, small=small if real else None)
        sample["mask"] = needs_refinement(sample["error"])
    if recipe.packing is not None:
        sample["keep"] = _thin(sample["mask"], recipe.packing, rng)
        sample["negative"] = np.bool_(rng.random() < recipe.packing.negative_share)
    return sample


def _collate(samples: Sequence[Batch], bucket: Bucket | None, recipe: Recipe) -> Batch:
    batch = {key: np.stack([s[key] for s in samples]) for key in samples[0]}
    packing = recipe.packing
    if packing is None:
        return batch
    keep = batch.pop("keep")
    batch["negative"] = batch["negative"].reshape(-1, packing.samples)
    slots = max(packing.text_lengths)

    def plans(negative: Bool[HostArray, "b k"]) -> TokenPlan:
        packs = keep.reshape(-1, packing.samples, *keep.shape[1:])
        lengths = np.where(negative, packing.text_lengths[1], packing.text_lengths[0])
        return stack_plans(
            [
                build_plan(list(masks), texts.tolist(), bucket, slots)
                for masks, texts in zip(packs, lengths, strict=True)
            ]
        )

    batch["plan"] = plans(batch["negative"])
    if packing.guided:
        batch["negative_plan"] = plans(np.ones_like(batch["negative"]))
    return batch


def with_masks(batch: Batch, scale: int) -> Batch:
    """The batch, with Eq. 1's masks on the truth if it has none yet."""
    if "mask" in batch:
        return batch
    return batch | {"mask": np.stack([oracle_mask(clip, scale) for clip in batch["hr"]])}


def plain_batch(
    clips: Sequence[UInt8[HostArray, "f h w 3"]], recipe: Recipe, dense: bool = False
) -> Batch:
    """These clips of one shape with nothing drawn at random: for measures that repeat.

    Area downsampling, positive texts, Eq. 1's masks on the truth; everything kept if ``dense``.
    The bucket is the same in both cases.
    """
    samples: list[Batch] = []
    for clip in clips:
        mask = oracle_mask(clip, recipe.scale)
        mask = np.ones_like(mask) if dense else mask
        sample = {"hr": clip, "lr": low_quality(clip, recipe.scale), "mask": mask}
        if recipe.packing is not None:
            sample |= {"keep": mask if mask.any() else _first_only(mask), "negative": np.False_}
        samples.append(sample)
    bucket = None
    if recipe.packing is not None:
        whole = dataclasses.replace(recipe.packing, kept_share=1.0)
        bucket = bucket_of(ClipShape(len(clips), *clips[0].shape[:3]), whole)
    return _collate(samples, bucket, recipe)


def _first_only(mask: Bool[HostArray, "t r c"]) -> Bool[HostArray, "t r c"]:
    """One patch, because a plan has to have one."""
    only = np.zeros_like(mask)
    only.flat[0] = True
    return only


def bucket_of(shape: ClipShape, packing: Packing) -> Bucket:
    """The one bucket of a kind of batch: room for the tokens and for every window of its grid."""
    tokens = _room(int(np.prod(shape.grid)), packing) * packing.samples
    windows = required_bucket([np.ones(shape.grid, bool)] * packing.samples).windows
    return bucket_for(tokens, windows, packing.shards)


def _kind(
    groups: Sequence[tuple[float, Sequence[Source]]], shape: ClipShape, recipe: Recipe, hosts: Any
) -> grain.MapDataset:
    """Endless batches of one shape; ``groups`` are (share of the samples, sources)."""
    index, count = hosts
    if shape.batch % count:
        raise UserError(f"batch {shape.batch} does not divide over {count} hosts")
    packing = recipe.packing
    if packing is not None and (shape.batch // count) % packing.samples:
        raise UserError(
            f"batch {shape.batch} over {count} hosts does not divide into sequences of "
            f"{packing.samples} samples"
        )
    datasets = [
        grain.MapDataset.source(list(sources)).seed(recipe.seed + i).shuffle().repeat()
        for i, (_, sources) in enumerate(groups)
    ]
    mixed = grain.MapDataset.mix(datasets, [share for share, _ in groups])
    samples = mixed.seed(recipe.seed + 7 * shape.frames).random_map(
        functools.partial(_sample, shape=shape, recipe=recipe)
    )
    bucket = None if packing is None else bucket_of(shape, packing)
    collate = functools.partial(_collate, bucket=bucket, recipe=recipe)
    # Host i has the i-th part of each batch, so that a batch is the same for any number of hosts.
    parts = samples.batch(shape.batch // count, drop_remainder=True, batch_fn=collate)
    return parts[index::count]


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
    shape = recipe.video
    groups = [(1 - recipe.pan_share, _that_hold(videos, shape, shape.frames))]
    if recipe.pan_share:
        groups.append((recipe.pan_share, _that_hold(pictures, shape, 1)))
    groups = [(share, fit) for share, fit in groups if fit and share > 0]
    if not groups:
        raise UserError(
            f"none of {len(videos)} videos and {len(pictures)} pictures holds {shape.frames} "
            f"frames of {shape.height} x {shape.width}: lower the crop or add data"
        )
    kinds, weights = [_kind(groups, shape, recipe, hosts)], [1 - recipe.image_share]
    if recipe.image is not None and recipe.image_share > 0:
        fit = _that_hold(pictures, recipe.image, 1)
        if not fit:
            raise UserError(
                f"image_share is {recipe.image_share}, but none of {len(pictures)} pictures holds "
                f"{recipe.image.height} x {recipe.image.width}: lower the crop or add pictures"
            )
        kinds.append(_kind([(1.0, fit)], recipe.image, recipe, hosts))
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
