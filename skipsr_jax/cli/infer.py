"""Upscale videos, images and folders of frames with SkipSR.

    python infer.py                                            # the sample clip, 4x, tiny model
    python infer.py -i clip.mp4 -o big.mp4 --scale=2 --save_mask
    python infer.py -i clip.mp4 --start=1:30 --end=1:40.5
    python infer.py --config=seedvr2_3b --input=folder --input=more --config.size.height=1080
    python infer.py --input=clip.mp4 --page=report.html
    python infer.py --input=clip.mp4 --warmup

The command skipsr-infer, where the package is installed, is the same program. --config takes the
name of a config in configs/ or a Python file; --config.a.b=value changes one entry of it. A folder
of numbered images is one clip, any other folder one input per file (--folder=frames or files
decides).
Compiled programs are kept in --compile_cache_dir, by default in the user's cache folder. --warmup
compiles all that inputs of these sizes can ask for, upscales nothing, and stops. --page writes a
page to look at the inputs, the results and the masks in a browser.
Mistakes end with one line on stderr, exit status 1 and no partial output.
"""

import contextlib
import dataclasses
import logging
import pathlib
import sys
import time
import warnings
from collections.abc import Sequence

import jax
from absl import flags
from jax.sharding import Mesh

from skipsr_jax import commandline
from skipsr_jax.cli import dry_run, result_page
from skipsr_jax.cli.arguments import define_flags, find_inputs, with_flags
from skipsr_jax.cli.batch import Failures
from skipsr_jax.cli.progress import ProgressBar, waiting
from skipsr_jax.errors import UserError, message_of, one_line
from skipsr_jax.files import Identity, identity, remove_leftovers
from skipsr_jax.geometry import SPACE_FACTOR, padded_size
from skipsr_jax.inference import forecast, outputs
from skipsr_jax.inference.api import PREFETCHED, Upscaler
from skipsr_jax.inference.background import Background
from skipsr_jax.inference.done_notes import is_done, note_done
from skipsr_jax.inference.fingerprint import fingerprint
from skipsr_jax.inference.host_memory import limited_allocations
from skipsr_jax.inference.out_of_memory import memory_errors
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.protected import check_protected, check_unchanged
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Settings, complete, explain, from_config
from skipsr_jax.inference.warmup import warm_up
from skipsr_jax.media.mask_overlay import mask_overlay
from skipsr_jax.media.reader import Media, open_media
from skipsr_jax.parallel.spatial import spatial_shards
from skipsr_jax.types import HostArray

DEFAULT_CONFIG = "tiny"


@dataclasses.dataclass(frozen=True)
class Job:
    """One input and the files of its results.

    Attributes:
      media: the input.
      target: (height, width) that it is brought to.
      output: the path of the result.
      mask: the path of the mask pictures; None: none are made.
      notes: a line for each thing that the result will not have as the input has it.
      before: the identity of what had these paths when the run began.
    """

    media: Media
    target: tuple[int, int]
    output: pathlib.Path
    mask: pathlib.Path | None
    notes: tuple[str, ...] = ()
    before: dict[pathlib.Path, Identity] = dataclasses.field(default_factory=dict)


def plan_jobs(values: flags.FlagValues, settings: Settings, failures: Failures) -> list[Job]:
    """Checks every input and every output path before any work. Raises UserError.

    Leaves out inputs that are done already, and those that fail, which ``failures`` notes.
    """
    media, targets = find_inputs(values, settings, failures)
    several = failures.count > 1
    paths = outputs.output_paths(media, targets, settings.size, values.output, several)
    masks = [outputs.mask_path(path) if values.save_mask else None for path in paths]
    if settings.mask.reference:
        open_media(settings.mask.reference)
    check_protected([*paths, *filter(None, masks)], media, settings.mask.reference)
    jobs = []
    for m, target, path, mask in zip(media, targets, paths, masks, strict=True):
        with failures.of(m.path):
            if not values.overwrite and is_done(path, mask, m, target, settings):
                say(f"{path} is done already, by an earlier run (--overwrite: do it again)")
                continue
            m, alpha_notes = outputs.with_alpha(m, path, settings.output)
            checked = m, target, settings.output, values.overwrite
            notes = outputs.check_output(path, *checked)
            if mask:
                outputs.check_output(mask, *checked)
            notes = (*m.notes, *alpha_notes, *notes)
            before = {each: identity(each) for each in (path, mask) if each}
            jobs.append(Job(m, target, path, mask, notes, before))
    return jobs


def devices_of(mesh: Mesh, target: tuple[int, int]) -> str:
    """What ran, and what the autoencoder could not use because the frame does not divide."""
    kind = mesh.devices.flat[0].device_kind
    if mesh.size == 1:
        return kind
    height, width = padded_size(*target)
    used = spatial_shards(mesh, height, width, SPACE_FACTOR)
    rest = "" if used == mesh.size else f" ({used} of them for the autoencoder's {width}x{height})"
    return f"{mesh.size} x {kind}{rest}"


def write_mask_picture(writer: outputs.Writer, report: Report, frame: HostArray, keep: HostArray):
    """Draws the mask of a frame and writes it."""
    with report.stage("mask picture"):
        writer.write(mask_overlay(frame, keep))


def run_job(
    job: Job, upscaler: Upscaler, overwrite: bool, masks: list[HostArray] | None = None
) -> tuple[list[str], Report]:
    """Upscales one input; returns its summary and report. Appends frames' masks to ``masks``."""
    media, settings = job.media, upscaler.settings

    def open_writer(path: pathlib.Path) -> outputs.Writer:
        return outputs.open_writer(path, media, job.target, settings.output, overwrite)

    writer = open_writer(job.output)
    mask_writer = open_writer(job.mask) if job.mask else None
    codes = outputs.format_of(writer, media)
    # Pictures of the mask are drawn on RGB, whatever the file of the result takes.
    formats = [codes, outputs.rgb_bits(media)] if mask_writer else [codes]
    with contextlib.ExitStack() as stack:
        title, counts = one_line(media.path.name), upscaler.programs.cache.counts
        report = Report(stack.enter_context(ProgressBar(title, media.num_frames, counts)))
        results = upscaler.stream_codes(media.frames(), formats, settings.size, report, media.first)
        stack.enter_context(contextlib.closing(results))
        stack.enter_context(writer)
        if mask_writer:
            stack.enter_context(mask_writer)
        background = stack.enter_context(Background(PREFETCHED))
        for (frame, *rgb), keep in results:
            if mask_writer:  # drawn and written beside the frame, for it may take as long
                background.submit(write_mask_picture, mask_writer, report, *rgb[0], keep)
            with report.stage("write"):
                outputs.write(writer, frame)
            if masks is not None:
                masks.append(keep)
        if report.frames == 0:
            raise UserError(f"{media.path} holds no frames")
    return summary(job, upscaler, report), report


def summary(job: Job, upscaler: Upscaler, report: Report) -> list[str]:
    """The closing lines of one input."""
    sizes = [f"{w}x{h}" for h, w in ((job.media.height, job.media.width), job.target)]
    plural = "" if report.frames == 1 else "s"
    facts = [
        f"size       {sizes[0]} -> {sizes[1]}, {report.frames} frame{plural}",
        *part_line(job.media, report.frames),
        f"device     {devices_of(upscaler.programs.model.mesh, job.target)}",
        *report.lines(),
    ]
    if job.mask:
        facts.append(f"mask       {job.mask}")
    return [f"{job.media.path} -> {job.output}", *(f"  {fact}" for fact in facts)]


def part_line(media: Media, done: int) -> list[str]:
    """A line that says which part of an input was upscaled; none where that is all of it.

    ``done``: how many frames were.
    """
    if not (media.first or media.after or done < media.num_frames):
        return []
    last, frames = media.first + done - 1, media.first + media.num_frames + media.after
    line = f"part       frames {media.first} to {last} of {frames}"
    if media.video:
        times = [media.video.timing.part(0, n).duration for n in (media.first, last + 1)]
        line += f" ({float(times[0]):.2f} s to {float(times[1]):.2f} s)"
    return [f"{line}; the rest is left out"]


def programs_line(programs: Programs, folder: str | None) -> str:
    """How many programs there were, where they came from, and what was waited for them."""
    counts = programs.cache.counts
    kept = f"kept in {folder}" if folder else "not kept (--compile_cache_dir=none)"
    return (
        f"programs {counts.compiled} compiled, {counts.loaded} loaded, "
        f"{programs.compiled_transformers} of them of the transformer; waited "
        f"{counts.waited_seconds:.1f} s for them; {kept}"
    )


def sizes_of_inputs(
    values: flags.FlagValues, settings: Settings, failures: Failures
) -> list[tuple]:
    """(size, target, frames) of each kind of input, as ``warm_up`` takes them."""
    media, targets = find_inputs(values, settings, failures)
    found = {
        ((m.height, m.width), target, m.num_frames)
        for m, target in zip(media, targets, strict=True)
    }
    return sorted(found)


def run(argv: Sequence[str], failures: Failures, stack: contextlib.ExitStack) -> None:
    """The program. Raises UserError for what the user can mend; ``failures`` notes inputs of
    several that could not be done. ``stack`` ends with the program."""
    started = time.perf_counter()
    values, config = commandline.parse(
        argv, DEFAULT_CONFIG, define_flags(), __doc__, complete, explain
    )
    settings = with_flags(from_config(config), values)
    cache = None if values.compile_cache_dir in ("", "none") else values.compile_cache_dir
    if values.warmup and not cache:
        raise UserError("--warmup fills a folder for later runs: name it with --compile_cache_dir")
    sizes = sizes_of_inputs(values, settings, failures) if values.warmup else []
    jobs = [] if values.warmup else plan_jobs(values, settings, failures)
    if not (jobs or values.warmup):
        return
    if values.page:
        result_page.check(values.page, values.overwrite)
    if values.dry_run:
        for line in dry_run.lines(jobs, settings, cache):
            say(line)
        return
    for job in jobs:
        for note in job.notes:
            say(f"{job.media.path}: {note}")
    for folder in {job.output.parent for job in jobs}:
        for line in remove_leftovers(folder):
            say(line)
    clips = [(job.media.num_frames, job.target) for job in jobs]

    began = time.perf_counter()
    if jax.default_backend() == "cpu":
        stack.enter_context(limited_allocations())
    with memory_errors("loading the model"), waiting("loading the model"):
        upscaler = Upscaler(settings, cache=cache, clips=clips)
    loading = time.perf_counter() - began
    print(f"model {upscaler.programs.model.source}, loaded in {loading:.1f} s")
    if upscaler.memory is not None:
        print(f"memory {upscaler.memory}")
    for size in sizes:
        for line in warm_up(*size, upscaler.programs, settings, values.warmup_from):
            print(line, flush=True)
    finished = []
    work, counts = forecast.Stopwatch(started), upscaler.programs.cache.counts
    for job in jobs:
        masks = [] if values.page else None
        with failures.of(job.media.path), memory_errors(str(job.media.path)):
            for path, before in job.before.items():
                check_unchanged(path, before)
            made_from = fingerprint(job.media, job.target, settings)
            with work.clip(counts):
                lines, report = run_job(job, upscaler, values.overwrite, masks)
            work.done(upscaler.programs.model, settings, (report.frames, job.target))
            for path in filter(None, (job.output, job.mask)):
                note_done(path, made_from)
            for line in lines:
                say(line)
            if masks:
                finished.append(result_page.Finished(job.media, job.output, masks, report))
    print(programs_line(upscaler.programs, cache))
    if jobs:
        forecast.write_speed(cache, upscaler.programs.model, settings, work.speed(counts))
    if finished:
        result_page.write(values.page, finished, settings, values.overwrite)
        print(f"page {values.page}")


def say(line: str) -> None:
    """Prints one line, with escapes for what the terminal's encoding does not have."""
    encoding = sys.stdout.encoding or "utf-8"
    print(one_line(line).encode(encoding, "backslashreplace").decode(encoding), flush=True)


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """The message of a record; names of files in it may hold anything."""
        return one_line(record.getMessage())


def _message_of_warning(message: Warning | str, *_: object) -> str:
    """What a library warns of, without its line of code."""
    return message_of(message) if isinstance(message, Warning) else message


def _handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    return handler


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, or 1 after one line that says what is wrong."""
    program = pathlib.Path(argv[0]).name
    logging.basicConfig(level=logging.WARNING, handlers=[_handler()])
    logging.captureWarnings(True)
    warnings.formatwarning = _message_of_warning
    failures = Failures(say)
    try:
        with contextlib.ExitStack() as stack:
            run(argv, failures, stack)
    except UserError as error:
        failures.report(program)
        print(f"{program}: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: stopped", file=sys.stderr)
        return 130
    return failures.report(program)
