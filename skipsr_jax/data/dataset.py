"""The training dataset: an endless sequence of batches, by index, made by processes or threads.

Two kinds of batch alternate in a stated ratio: clips of ``frames`` frames and single pictures. Each
kind has one shape, so each is one compiled program. Or there is one kind, whose sequences hold
clips and pictures of several stated shapes together (Dehghani et al. 2023, NaViT): again one
program. Pictures also serve as clips (``pan_share``). Everything random is a function of (seed,
index): the same batches come with any number of workers, and after a resume from the iterator's
state.

`skipsr_jax.data.sample` makes a sample, and `skipsr_jax.data.batch.Batch` says what a batch holds.
"""

import contextlib
import dataclasses
import functools
import itertools
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from absl import flags

from skipsr_jax.data.batch import Batch, collate
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.packing import bucket_of
from skipsr_jax.data.sample import Recipe
from skipsr_jax.data.source import Source
from skipsr_jax.data.workers import begin_worker, naming_files, sample_of_any
from skipsr_jax.errors import UserError, imports_of_extra

with imports_of_extra("train"):
    import grain


Found = Sequence[tuple[float, Sequence[Source]]]
"""Where the samples of a shape come from: (fraction of the samples, sources)."""


def _samples(number: int, shape: ClipShape, found: Found, recipe: Recipe) -> grain.MapDataset:
    """Endless samples of one shape, the batch's shape ``number``, seeded by that number too."""
    seed = recipe.seed + 1000 * number
    datasets = [
        grain.MapDataset.source(list(sources)).seed(seed + i).shuffle().repeat()
        for i, (_, sources) in enumerate(found)
    ]
    mixed = grain.MapDataset.mix(datasets, [fraction for fraction, _ in found])
    others = [source for _, sources in found for source in sources]
    return mixed.seed(seed + 7 * shape.frames).random_map(
        functools.partial(sample_of_any, shape=shape, recipe=recipe, others=others)
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
    to_batch = functools.partial(collate, bucket=bucket, recipe=recipe)
    endless = min(len(group) for group in groups)
    together = grain.experimental.ZipMapDataset([group[:endless] for group in groups])
    return together.map(to_batch)[index::count]


def _large_enough(sources: Sequence[Source], shape: ClipShape, frames: int) -> list[Source]:
    """The sources that have so many frames within a shot, and the size of the shape at least."""
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


def _clips_for(shape: ClipShape, sources: Sequence[Source], recipe: Recipe) -> Found:
    """Where clips of this shape come from: videos, and pans over pictures."""
    pictures = [s for s in sources if s.kind == "image"]
    videos = [s for s in sources if s.kind != "image"]
    groups = [(1 - recipe.pan_share, _large_enough(videos, shape, shape.frames))]
    if recipe.pan_share:
        groups.append((recipe.pan_share, _large_enough(pictures, shape, 1)))
    groups = [(fraction, fit) for fraction, fit in groups if fit and fraction > 0]
    if not groups:
        raise UserError(
            f"none of {len(videos)} videos and {len(pictures)} pictures holds {shape.frames} "
            f"frames of {shape.height} x {shape.width}: lower the crop or add data"
        )
    return groups


def _pictures_for(shape: ClipShape, sources: Sequence[Source], wanted_by: str) -> Found:
    """Where single pictures of this shape come from; ``wanted_by``: the setting that asks."""
    pictures = [s for s in sources if s.kind == "image"]
    fit = _large_enough(pictures, shape, 1)
    if not fit:
        raise UserError(
            f"{wanted_by}, but none of {len(pictures)} pictures holds "
            f"{shape.height} x {shape.width}: lower the crop or add pictures"
        )
    return [(1.0, fit)]


def _fractions(weights: Iterable[float]) -> list[float]:
    """The weights divided by their sum."""
    weights = list(weights)
    return [weight / sum(weights) for weight in weights]


def batches(
    sources: Sequence[Source], recipe: Recipe, hosts: tuple[int, int] = (0, 1)
) -> grain.MapDataset:
    """Returns all batches of this host, by index. ``hosts`` = (this host, number of hosts).

    Raises UserError when no clip is large and long enough for a kind of batch, or a batch does not
    divide over hosts and sequences.
    """
    if len(recipe.factors) > 1 and not recipe.one_size:
        kinds = [
            batches(sources, dataclasses.replace(recipe, factors=((factor, 1.0),)), hosts)
            for factor, _ in recipe.factors
        ]
        return grain.MapDataset.mix(kinds, _fractions(weight for _, weight in recipe.factors))
    if recipe.mixed:
        found = [
            _pictures_for(shape, sources, "data.pack has pictures")
            if shape.frames == 1
            else _clips_for(shape, sources, recipe)
            for shape in recipe.mixed
        ]
        return _kind(recipe.mixed, found, recipe, hosts)
    kinds = [_kind([recipe.video], [_clips_for(recipe.video, sources, recipe)], recipe, hosts)]
    weights = [1 - recipe.image_share]
    if recipe.image is not None and recipe.image_share > 0:
        found = _pictures_for(recipe.image, sources, f"image_share is {recipe.image_share}")
        kinds.append(_kind([recipe.image], [found], recipe, hosts))
        weights.append(recipe.image_share)
    if weights[0] <= 0:
        kinds, weights = kinds[1:], weights[1:]
    return grain.MapDataset.mix(kinds, weights)


def iterate(
    dataset: grain.MapDataset, workers: int, start: int = 0, threads: int = 4, echo: int = 1
) -> Iterator[Batch]:
    """Returns an iterator of the batches of steps ``start``, ``start + 1``, ... in order.

    Step i takes batch i // ``echo``: each batch is prepared once, and comes ``echo`` times.

    They are prefetched by ``workers`` processes (0: by ``threads`` threads of this process), but by
    no more than there are cores, which is logged.

    A batch depends on its number alone, so the number is all that a resumed run needs to know, with
    other workers and other hosts too. Raises UserError when a worker has been killed.
    """
    return _echoed(_prefetched(dataset[start // echo :], workers, threads), echo, start % echo)


def _echoed(batches: Iterator[Batch], echo: int, first: int) -> Iterator[Batch]:
    """Each batch ``echo`` times, the first one ``first`` times less."""
    with contextlib.closing(batches):
        for batch in batches:
            yield from itertools.repeat(batch, echo - first)
            first = 0


def _prefetched(dataset: grain.MapDataset, workers: int, threads: int) -> Iterator[Batch]:
    """The batches of a dataset, prepared by ``workers`` processes or by ``threads`` threads."""
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    if workers == 0:
        return iter(dataset.to_iter_dataset(read_options))
    if not flags.FLAGS.is_parsed():  # grain reads a flag of its own; outside absl.app nobody parses
        flags.FLAGS.mark_as_parsed()
    read_options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if workers > cores:
        logging.info("%d data workers, one for each core: data.workers is %d", cores, workers)
    count = min(workers, cores)
    options = grain.MultiprocessingOptions(num_workers=count, per_worker_buffer_size=1)
    samples = dataset.to_iter_dataset(read_options)
    return naming_files(iter(samples.mp_prefetch(options, worker_init_fn=begin_worker)))
