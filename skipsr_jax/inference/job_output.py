"""Where the frames of one input go: into files at once, or segment by segment.

``run_job`` of the command line writes to either in the same loop:

    with output_of(target, chunk, made_from, say) as output, output:
        for index, (codes, keep) in enumerate(frames, output.first):
            output.begin(index, wait_for_masks)
            output.write(codes, keep)
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any

from skipsr_jax.errors import UserError
from skipsr_jax.files import commit_or_rename, identity
from skipsr_jax.inference import outputs
from skipsr_jax.inference.boundaries import Boundaries, Boundary
from skipsr_jax.inference.done_notes import is_noted, note_done
from skipsr_jax.inference.fingerprint import Fingerprint
from skipsr_jax.inference.pipeline import OutputFormat
from skipsr_jax.inference.segments import (
    FRAMES,
    MASK_FRAMES,
    Plan,
    Segments,
    discard_segments,
    plan_of,
)
from skipsr_jax.inference.settings import Chunk, Output
from skipsr_jax.media.packet_file import read_packets
from skipsr_jax.media.reader import Media
from skipsr_jax.media.video_writer import VideoWriter
from skipsr_jax.types import HostArray


@dataclasses.dataclass(frozen=True)
class Target:
    """The files of one input.

    Attributes:
      media: the input.
      size: (height, width) of the frames.
      output: the path of the result.
      mask: of the mask pictures; None: none are made.
      settings: of the files.
      replaceable: those of the paths at which what exists is replaced.
    """

    media: Media
    size: tuple[int, int]
    output: pathlib.Path
    mask: pathlib.Path | None
    settings: Output
    replaceable: frozenset[pathlib.Path] = frozenset()

    @property
    def paths(self) -> list[pathlib.Path]:
        """Of the result, and of the mask pictures if there are any."""
        return [self.output, *([self.mask] if self.mask else [])]

    def open_writer(self, path: pathlib.Path) -> outputs.Writer:
        """The writer of the whole."""
        return outputs.open_writer(*self.of(path))

    def of(self, path: pathlib.Path) -> tuple[pathlib.Path, Media, tuple[int, int], Output, bool]:
        """What the functions of ``outputs`` take to write at a path."""
        return path, self.media, self.size, self.settings, path in self.replaceable

    def formats(self) -> list[OutputFormat]:
        """What is written: the codes of the result, and RGB to draw mask pictures on."""
        codes = outputs.format_of(self.open_writer(self.output), self.media)
        return [codes, outputs.rgb_bits(self.media)] if self.mask else [codes]


@contextlib.contextmanager
def output_of(
    target: Target, chunk: Chunk, made_from: Fingerprint, say: Callable[[str], None]
) -> Iterator["WholeOutput | SegmentedOutput"]:
    """Where the frames of an input go. Yields the output, which is not entered yet.

    ``made_from``: the fingerprint of the result. ``say`` prints a line about earlier runs.
    """
    plan = plan_of(chunk, target.settings.segment_frames, target.media.num_frames)
    if plan is None or not all(outputs.can_be_segmented(*target.of(p)) for p in target.paths):
        yield WholeOutput(target)
        return
    with Segments(target.output, made_from) as segments:
        for line in segments.notes:
            say(line)
        yield SegmentedOutput(target, plan, segments, made_from)


def finish(target: Target, made_from: Fingerprint) -> list[str]:
    """Notes that the files of an input are finished, and removes its segments.

    Returns a line for each that cannot be noted.
    """
    missing = [path for path in target.paths if note_done(path, made_from)]
    discard_segments(target.output)
    reasons = {path: note_done(path, made_from) for path in missing}  # the disk may have room now
    return [
        f"{path} is finished and cannot be noted as that ({reason}): a further run will not know it"
        for path, reason in reasons.items()
        if reason
    ]


class WholeOutput(contextlib.AbstractContextManager):
    """Writes each file as a whole.

    Attributes:
      first: index of the first frame that is to be made.
      is_whole: whether all frames are there already.
      boundaries: where the clip begins, and what is kept of it.
      mask_writer: takes mask pictures; None: none are made.
      keep: the mask of each frame.
    """

    first, is_whole, boundaries = 0, False, None

    def __init__(self, target: Target):
        self._files = contextlib.ExitStack()
        self._writers = [target.open_writer(path) for path in target.paths]
        self.mask_writer = self._writers[1] if target.mask else None
        self.keep: list[HostArray] = []

    def __enter__(self) -> "WholeOutput":
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer)
            self._files = stack.pop_all()
        return self

    def begin(self, index: int, finish_masks: Callable[[], None]) -> None:
        """States the frame that comes next; ``finish_masks`` waits for its mask pictures."""

    def write(self, codes: Sequence[HostArray], keep: HostArray) -> None:
        """Appends a frame to the result."""
        outputs.write(self._writers[0], codes)
        self.keep.append(keep)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)


class SegmentedOutput(contextlib.AbstractContextManager):
    """Writes segments, and joins them in the end. Attributes: as of `WholeOutput`."""

    def __init__(self, target: Target, plan: Plan, segments: Segments, made_from: Fingerprint):
        """``segments`` are held by the caller."""
        self._target, self._plan, self._segments = target, plan, segments
        self._made_from = made_from
        self._before = {path: identity(path) for path in target.paths}
        self.first, self.is_whole = segments.frames_done, segments.is_whole
        self.boundaries = Boundaries(segments.boundary(), plan.chunks)
        self.mask_writer: outputs.Writer | None = None
        self._writer: outputs.Writer | None = None
        self._files = contextlib.ExitStack()
        self._keep: list[HostArray] = []

    @property
    def keep(self) -> list[HostArray]:
        """The mask of each frame of the finished segments."""
        return list(self._segments.keep_masks())

    def begin(self, index: int, finish_masks: Callable[[], None]) -> None:
        """States the frame that comes next: the first of a segment finishes the one before."""
        if self._writer is not None and index % self._plan.frames == 0:
            boundary = self.boundaries.take(index // self._plan.frames * self._plan.chunks)
            if boundary is not None:
                finish_masks()
                self._finish(boundary)
        if self._writer is None:
            self._open(index)

    def write(self, codes: Sequence[HostArray], keep: HostArray) -> None:
        """Appends a frame to the segment."""
        if self._writer is None:
            raise ValueError("begin() comes before write()")
        outputs.write(self._writer, codes)
        self._keep.append(keep)

    def _open(self, first: int) -> None:
        target, segments = self._target, self._segments

        def open_writer(path: pathlib.Path, name: str, folder: str) -> outputs.Writer:
            writer = outputs.open_segment_writer(
                *target.of(path), first, segments.path(name), segments.folder / folder
            )
            return self._files.enter_context(writer)

        self._writer = open_writer(target.output, "packets", FRAMES)
        if target.mask:
            self.mask_writer = open_writer(target.mask, "mask.packets", MASK_FRAMES)

    def _finish(self, boundary: Boundary | None) -> None:
        """Finishes the segment before a boundary; None: the last one."""
        self._files.close()
        self._segments.finish(len(self._keep), self._keep, boundary)
        self._writer = self.mask_writer = None
        self._keep = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._files.__exit__(kind, error, trace)
            return
        if self._writer is not None:
            self._finish(None)
        if not self._segments.is_whole:
            raise UserError(f"{self._target.media.path} holds fewer frames than before")
        names = {FRAMES: "packets", MASK_FRAMES: "mask.packets"}
        for path, (folder, packets) in zip(self._target.paths, names.items(), strict=False):
            if not is_noted(path, self._made_from):  # else a run joined it and was killed then
                self._join(path, self._segments.folder / folder, self._segments.paths(packets))

    def _join(
        self, path: pathlib.Path, frames: pathlib.Path, packets: Iterable[pathlib.Path]
    ) -> None:
        def note(complete: pathlib.Path) -> None:
            note_done(path, self._made_from, complete)

        if frames.is_dir():
            note(frames)
            overwrite, before = path in self._target.replaceable, self._before[path]
            commit_or_rename(frames, path, overwrite=overwrite, before=before)
            return
        writer: Any = self._target.open_writer(path)
        if not isinstance(writer, VideoWriter):
            raise ValueError(f"{path} is no video")
        writer.before_commit = note
        with writer:
            for file in packets:
                writer.write_packets(read_packets(file))
