"""Moments of a clip as a user names them: in seconds, as a clock shows them, or in frames.

90   90.5   90.5s   1:30.5   0:01:30.5      seconds from the first frame on
2700f                                       frames before it
"""

import dataclasses
import re
from fractions import Fraction

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.media.reader import Media

_SECONDS = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)s?")
_FRAMES = re.compile(r"(\d+)f")


@dataclasses.dataclass(frozen=True)
class Moment:
    """A moment of a clip: ``frames``, or ``seconds`` where ``frames`` is None."""

    seconds: Fraction = Fraction(0)
    frames: int | None = None


def moment_of(text: str, flag: str) -> Moment:
    """The moment that ``text`` names. Raises UserError, which names the flag."""
    frames, seconds = _FRAMES.fullmatch(text), _SECONDS.fullmatch(text)
    if frames:
        return Moment(frames=int(frames[1]))
    if seconds:
        hours, minutes, rest = (Fraction(part or 0) for part in seconds.groups())
        return Moment(3600 * hours + 60 * minutes + rest)
    raise UserError(
        f"{flag} is {text!r}: it must be seconds (90, 90.5, 1:30.5, 0:01:30.5) or frames (2700f)"
    )


def part_between(
    media: Media, start: Moment | None, end: Moment | None, max_frames: int = 0
) -> Media:
    """The frames that are shown from ``start`` on and before ``end``, at most ``max_frames``.

    None: from the first frame, or to the last; 0: as many as there are. Raises UserError when the
    input is a picture and has moments named, when it has no times and they are seconds, and when no
    frame lies between them.
    """
    if media.kind == "image" and (start or end):
        raise UserError(f"{media.path} is a picture: --start and --end are for videos and frames")
    first = _frame_at(media, start, "--start") if start else 0
    stop = min(_frame_at(media, end, "--end"), media.num_frames) if end else media.num_frames
    if first >= stop:
        length = f"{media.num_frames} frames"
        if media.timing:
            length += f" in {float(media.timing.duration):.3f} seconds"
        raise UserError(f"{media.path} has no frame from --start to --end: it has {length}")
    return media.part(first, min(stop - first, max_frames or stop - first))


def _frame_at(media: Media, moment: Moment, flag: str) -> int:
    """The index of the first frame that is shown at a moment or later."""
    if moment.frames is not None:
        return moment.frames
    timing = media.timing
    if timing is None:
        raise UserError(
            f"{media.path} has frames without times: write {flag} in frames, as in {flag}=30f"
        )
    if timing.is_constant:  # time stamps are rounded, the rate is not
        return -int(-moment.seconds * timing.rate // 1)
    tick = moment.seconds / timing.time_base + int(timing.ticks[0])
    return int(np.searchsorted(timing.ticks, -int(-tick // 1)))
