"""What ``infer.py --dry_run`` says of each input: what it becomes, and what that takes."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from skipsr_jax.disk_space import free_space
from skipsr_jax.errors import plural
from skipsr_jax.inference import forecast
from skipsr_jax.inference.cost import Clip, memory_limit, memory_need
from skipsr_jax.inference.model import Model, mask_origin
from skipsr_jax.inference.segments import plan_of
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.reader import Media

GIB = 2**30
VIDEO_BITS_PER_PIXEL = 0.25
"""Of H.264 as the writer codes it by default: three clips took 0.17 to 0.22."""
STATE_BYTES = 12
"""Of a pixel of a frame that a run would go on with: three channels in float32."""


def lines(
    jobs: Sequence[Any], model: Model, settings: Settings, cache: str | None
) -> Iterator[str]:
    """What a run of these jobs would take; loads, compiles and writes nothing.

    Args:
      jobs: each a ``cli.infer.Job`` that fits the memory.
      model: as ``inference.cost.described`` gives it.
      settings: of the run.
      cache: the folder of compiled programs, beside which earlier runs noted their speed.
    """
    yield f"model {model.source}, masks: {mask_origin(settings.mask, model)}"
    clips = [(job.media.num_frames, job.target) for job in jobs]
    speed, limit = forecast.read_speed(cache, model, settings), memory_limit(model)
    fractions = list(_missing(model, settings, clips, cache))
    total = 0.0
    for number, (job, clip, missing) in enumerate(zip(jobs, clips, fractions, strict=True)):
        found = forecast.forecast(model, settings, clip, speed, missing)
        total += found.seconds + found.programs + (found.start if number == 0 else 0.0)
        yield f"{job.media.path} -> {job.output}"
        (height, width), media = job.target, job.media
        count, chunks = plural(media.num_frames, "frame"), plural(found.chunks, "chunk")
        yield f"  size       {media.width}x{media.height} -> {width}x{height}, {count} in {chunks}"
        yield f"  tokens     at most {found.bucket} in a chunk"
        there = "" if limit is None else f"; there are {limit / GIB:.1f}"
        need = memory_need(model, settings, clip, max(fractions[: number + 1]))
        yield f"  memory     {need}{there}"
        yield f"  disk       {_disk(job.output, media, clip, settings)}"
        yield f"  time       about {found.seconds:.0f} s"
        yield from (f"  note       {note}" for note in job.notes)
    source = "as an earlier run here took" if speed else "by operations; no run here was measured"
    programs = "programs are compiled already"
    if any(fractions):
        programs = f"{'some ' if fractions[0] < 1 else ''}programs have to be compiled"
    yield f"about {total:.0f} s in all, {source}; {programs}"


def _missing(
    model: Model, settings: Settings, clips: Sequence[Clip], cache: str | None
) -> Iterator[float]:
    """How much of its programs each clip of a run has to compile, 0 to 1.

    Clips after the first compile those of a size for which there are none.
    """
    sizes = set()
    for clip in clips:
        missing = 0.0
        if clip[1] not in sizes:
            missing = forecast.missing_programs(model, settings, clip, cache)
        yield missing if missing == 1 or not sizes else 0.0
        sizes.add(clip[1])


def _disk(output: pathlib.Path, media: Media, clip: Clip, settings: Settings) -> str:
    frames, (height, width) = clip
    video = media.frame_rate is not None
    bits = VIDEO_BITS_PER_PIXEL if video else 8.0 * 3
    size = frames * height * width * bits / 8
    peak = ""
    if plan_of(settings.chunk, settings.output.segment_frames, frames):
        state = 2 * STATE_BYTES * settings.chunk.overlap * height * width  # the old one goes last
        whole = (2 * size if video else size) + state
        peak = f", and {whole / 2**20:.1f} MiB until its segments are joined"
    folder, free = free_space(output.absolute().parent)
    return f"about {size / 2**20:.1f} MiB{peak}; {free / GIB:.1f} GiB are free in {folder}"
