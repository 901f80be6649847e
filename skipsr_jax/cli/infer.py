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
from collections.abc import Generator, Mapping, Sequence

import jax
from absl import flags
from jax.sharding import Mesh
from PIL import Image

from skipsr_jax import commandline, signals
from skipsr_jax.cli import dry_run, result_page
from skipsr_jax.cli.arguments import define_flags, find_inputs, with_flags, with_own_names
from skipsr_jax.cli.batch import Failures
from skipsr_jax.cli.progress import ProgressBar, waiting
from skipsr_jax.errors import UserError, message_of, one_line, plural, system_errors
from skipsr_jax.files import Identity, identity, remove_leftovers
from skipsr_jax.geometry import SPACE_FACTOR, padded_size, token_grid
from skipsr_jax.host_memory import limited_allocations
from skipsr_jax.inference import forecast, outputs
from skipsr_jax.inference.api import PREFETCHED, Upscaler
from skipsr_jax.inference.background import Background
from skipsr_jax.inference.cost import LESS_MEMORY, described, largest_need
from skipsr_jax.inference.done_notes import done_already
from skipsr_jax.inference.fingerprint import Fingerprint, fingerprint
from skipsr_jax.inference.job_output import SegmentedOutput, Target, WholeOutput, finish, output_of
from skipsr_jax.inference.model import Model
from skipsr_jax.inference.pipeline import OutputFrame
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.protected import check_protected, check_unchanged
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.segments import discard_segments
from skipsr_jax.inference.settings import Settings, complete, explain, from_config
from skipsr_jax.inference.warmup import warm_up
from skipsr_jax.media.mask_overlay import mask_overlay
from skipsr_jax.media.reader import Media, open_media
from skipsr_jax.out_of_memory import memory_errors
from skipsr_jax.parallel.spatial import spatial_shards
from skipsr_jax.types import HostArray

DEFAULT_CONFIG = "tiny"


@dataclasses.dataclass(frozen=True)
class Job:
    """One input and the files of its results.

    Attributes:
      files: the input and the outputs.
      notes: a line for each thing that the result will not have as the input has it.
      before: the identity of what had the outputs' paths when the run began.
      is_done: whether an earlier run finished its outputs.
    """

    files: Target
    notes: tuple[str, ...] = ()
    before: dict[pathlib.Path, Identity] = dataclasses.field(default_factory=dict)
    is_done: bool = False

    @property
    def media(self) -> Media:
        """The input."""
        return self.files.media

    @property
    def target(self) -> tuple[int, int]:
        """(height, width) that it is brought to."""
        return self.files.size

    @property
    def output(self) -> pathlib.Path:
        """The path of the result."""
        return self.files.output


def plan_jobs(values: flags.FlagValues, settings: Settings, failures: Failures) -> list[Job]:
    """Checks every input and every output path before any work. Raises UserError.

    Inputs that are done already are among the jobs; those that fail are left out, and ``failures``
    notes them.
    """
    found, targets = find_inputs(values, settings, failures)
    media, targets = with_own_names(found, targets, settings.size, failures)
    several = failures.count > 1
    paths = outputs.output_paths(media, targets, settings.size, values.output, several)
    outputs.check_options(paths, media, settings.output)
    masks = [outputs.mask_path(path) if values.save_mask else None for path in paths]
    if settings.mask.reference:
        open_media(settings.mask.reference)
    check_protected([*paths, *filter(None, masks)], found, settings.mask.reference)
    jobs = []
    for m, target, path, mask in zip(media, targets, paths, masks, strict=True):
        with failures.of(m.path):
            wanted = [path, mask] if mask else [path]
            done = frozenset(wanted)  # what is replaced, if it exists
            if not values.overwrite:
                done = done_already(wanted, m, target, settings)
                if done == frozenset(wanted):
                    say(f"{path} is done already, by an earlier run (--overwrite: do it again)")
                    discard_segments(path)
                    job = Target(m, target, path, mask, settings.output, done)
                    jobs.append(Job(job, is_done=True))
                    continue
            m, alpha_notes = outputs.with_alpha(m, path, settings.output)
            job = Target(m, target, path, mask, settings.output, done)
            lines = [outputs.check_output(*job.of(each)) for each in wanted]
            before = {each: identity(each) for each in wanted}
            jobs.append(Job(job, (*m.notes, *alpha_notes, *lines[0]), before))
    return jobs


def jobs_that_fit(
    jobs: list[Job], model: Model, settings: Settings, failures: Failures
) -> list[Job]:
    """The jobs that need no more memory than there is; ``failures`` notes the others.

    Raises UserError where the only input does not fit, with the keys that make it fit.
    """
    fitting = []
    for job in jobs:
        with failures.of(job.media.path):
            largest_need(model, settings, [(job.media.num_frames, job.target)])
            fitting.append(job)
    return fitting


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
    job: Job, upscaler: Upscaler, made_from: Fingerprint, with_masks: bool
) -> tuple[list[str], Report, list[HostArray]]:
    """Upscales one input; returns its summary, its report, and with ``with_masks`` the mask of each
    frame."""
    media, settings = job.media, upscaler.settings
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(output_of(job.files, settings.chunk, made_from, say))
        title, counts = one_line(media.path.name), upscaler.programs.cache.counts
        bar = stack.enter_context(ProgressBar(title, media.num_frames - output.first, counts))
        report = Report(bar, output.first)
        results = upscaled_frames(job, upscaler, output, report)
        stack.enter_context(contextlib.closing(results))
        stack.enter_context(output)
        background = stack.enter_context(Background(PREFETCHED))
        for index, ((frame, *rgb), keep) in enumerate(results, output.first):
            output.begin(index, background.wait)
            if output.mask_writer:  # drawn and written beside the frame, for it may take as long
                background.submit(write_mask_picture, output.mask_writer, report, *rgb[0], keep)
            with report.stage("write"):
                output.write(frame, keep)
        if report.frames == 0 and not output.first:
            raise UserError(f"{media.path} holds no frames")
    return summary(job, upscaler, report), report, list(output.keep) if with_masks else []


def upscaled_frames(
    job: Job, upscaler: Upscaler, output: WholeOutput | SegmentedOutput, report: Report
) -> Generator[OutputFrame, None, None]:
    """The frames of an input that are still to be made, in the formats of its outputs."""
    if output.is_whole:
        return
    settings, count = upscaler.settings, job.media.num_frames
    rest, boundaries = job.media.part(output.first), output.boundaries
    with contextlib.ExitStack() as stack:
        if boundaries is not None:
            length = min(count, settings.chunk.frames)
            grids = [token_grid(length, *job.target)]
            stack.enter_context(upscaler.programs.repeatable_choices(grids))
        yield from upscaler.stream_codes(
            rest.frames(), job.files.formats(), settings.size, report, rest.first, boundaries
        )


def summary(job: Job, upscaler: Upscaler, report: Report) -> list[str]:
    """The closing lines of one input."""
    sizes = [f"{w}x{h}" for h, w in ((job.media.height, job.media.width), job.target)]
    frames = report.first + report.frames
    facts = [
        f"size       {sizes[0]} -> {sizes[1]}, {plural(frames, 'frame')}",
        *part_line(job.media, frames),
        f"device     {devices_of(upscaler.programs.model.mesh, job.target)}",
        *report.lines(),
    ]
    if report.first:
        facts.append(f"resumed    at frame {report.first}, which an earlier run had come to")
    if job.files.mask:
        facts.append(f"mask       {job.files.mask}")
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
    if counts.not_stored:
        few = "" if counts.not_stored == counts.compiled else f"{counts.not_stored} of them "
        kept = f"{few}not kept, because {folder} could not be written"
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
    started = forecast.process_start()
    values, config = commandline.parse(
        argv, DEFAULT_CONFIG, define_flags(), __doc__, complete, explain
    )
    settings = with_flags(from_config(config), values)
    cache = None if values.compile_cache_dir in ("", "none") else values.compile_cache_dir
    if values.warmup and not cache:
        raise UserError("--warmup fills a folder for later runs: name it with --compile_cache_dir")
    sizes = sizes_of_inputs(values, settings, failures) if values.warmup else []
    planned = [] if values.warmup else plan_jobs(values, settings, failures)
    jobs = [job for job in planned if not job.is_done]
    done = {job.output: result_page.Done(job.files) for job in planned if job.is_done}
    if values.page:
        results = [path for job in planned for path in job.files.paths]
        result_page.check(values.page, values.overwrite, results)
    if jobs and (failures.count > 1 or values.dry_run):  # else loading the model checks the input
        model = described(settings)
        jobs = jobs_that_fit(jobs, model, settings, failures)
    if values.dry_run:
        for line in dry_run.lines(jobs, model, settings, cache) if jobs else ():
            say(line)
        return
    if not (jobs or sizes):
        write_page(values, settings, planned, done, failures)
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
    with memory_errors("loading the model", LESS_MEMORY), waiting("loading the model"):
        upscaler = Upscaler(settings, cache=cache, clips=clips)
    loading = time.perf_counter() - began
    print(f"model {upscaler.programs.model.source}, loaded in {loading:.1f} s")
    if upscaler.memory is not None:
        print(f"memory {upscaler.memory}")
    for size in sizes:
        for line in warm_up(*size, upscaler.programs, settings, values.warmup_from):
            print(line, flush=True)
    work, counts = forecast.Stopwatch(started), upscaler.programs.cache.counts
    for job in jobs:
        with failures.of(job.media.path), memory_errors(str(job.media.path), LESS_MEMORY):
            for path, before in job.before.items():
                check_unchanged(path, before)
            made_from = fingerprint(job.media, job.target, settings)
            with work.clip(counts):
                lines, report, masks = run_job(job, upscaler, made_from, bool(values.page))
            if report.frames:
                clip = report.frames, job.target
                work.done(upscaler.programs.model, settings, clip, report.bound)
            lines += finish(job.files, made_from)
            for line in lines:
                say(line)
            done[job.output] = result_page.Done(job.files, masks, report)
    print(programs_line(upscaler.programs, cache))
    if jobs:
        forecast.write_speed(cache, upscaler.programs.model, settings, work.speed(counts))
    write_page(values, settings, planned, done, failures)


def write_page(
    values: flags.FlagValues,
    settings: Settings,
    planned: Sequence[Job],
    done: Mapping[pathlib.Path, result_page.Done],
    failures: Failures,
) -> None:
    """Writes the page of --page, and says what it lacks; does nothing without that flag.

    ``done``: what the page takes of each finished output, by its path.
    """
    finished = [done[job.output] for job in planned if job.output in done]
    if values.page and finished:
        lacks = result_page.lacking(finished, failures.paths)
        result_page.write(values.page, finished, settings, values.overwrite, lacks)
        for line in (f"page {values.page}", *lacks):
            say(line)


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


def _log_in_lines() -> None:
    """Prints warnings as lines on stderr. Orbax, when it is imported, has set up logging before."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(_OneLine())


def main(argv: Sequence[str]) -> int:
    """Exit status: 0, 1 after one line that says what is wrong, 128 + n after signal n."""
    program = pathlib.Path(argv[0]).name
    _log_in_lines()
    logging.captureWarnings(True)
    warnings.formatwarning = _message_of_warning
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half the limit
    failures = Failures(say)
    try:
        with contextlib.ExitStack() as stack, system_errors():
            run(argv, failures, stack)
    except UserError as error:
        failures.report(program)
        print(f"{program}: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        return signals.report(program, stop)
    return failures.report(program)
