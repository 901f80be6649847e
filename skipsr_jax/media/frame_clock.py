"""When each frame of an output is shown, in ticks that represent it exactly.

Time 0 of an output is when the first of its source's audio and video begins, as in the ffmpeg
program: where the video starts later than the audio, so does that of the output.
"""

import math
import pathlib
from fractions import Fraction

from skipsr_jax.media.scan import open_container
from skipsr_jax.media.timing import Timing

_TOGETHER = Fraction(1, 100)  # seconds; an earlier start of the audio is its codec's delay
_FINEST = 10**6  # ticks a second; beyond, a late start is rounded to a thousandth of a frame


class FrameClock:
    """The times of the frames of an output.

    Attributes:
      timing: of the source; None where frames follow each other at ``rate``.
      is_constant: whether every frame is shown equally long.
      unit: seconds of a tick.
      origin: the time of the source at which the output begins, in seconds of its clock.
    """

    def __init__(self, rate: Fraction, timing: Timing | None, audio_start: Fraction | None):
        """``audio_start``: when the first audio track of the source begins; None: there is none."""
        self.timing, self._rate = timing, rate
        late, start = Fraction(0), timing.start if timing else Fraction(0)
        if audio_start is not None and start - audio_start > _TOGETHER:
            late = start - audio_start
        self.is_constant = timing is None or timing.is_constant
        if timing is None or self.is_constant:
            self.unit = _common_unit(1 / rate, late)
        else:
            self.unit = timing.time_base
        self._first = round(late / self.unit)
        self.origin = start - self._first * self.unit

    def ticks(self, index: int) -> int:
        """When frame ``index`` starts; behind the last frame of the source, when that ends."""
        timing = self.timing
        if timing is None or self.is_constant:
            return self._first + round(index / self._rate / self.unit)
        count = len(timing.ticks)
        if index < count:
            return self._first + int(timing.ticks[index] - timing.ticks[0])
        rest = round((index - count) / self._rate / self.unit)
        return self._first + timing.end - int(timing.ticks[0]) + rest


def first_audio(path: pathlib.Path) -> Fraction | None:
    """When the first audio track of a file begins, in seconds of its clock; None: there is none."""
    with open_container(path) as container:
        starts = [
            stream.start_time * Fraction(stream.time_base)
            for stream in container.streams.audio
            if stream.start_time is not None and stream.time_base
        ]
    return min(starts, default=None)


def _common_unit(frame: Fraction, late: Fraction) -> Fraction:
    """The longest unit of which both are multiples, within reason."""
    over = frame.denominator * late.denominator
    unit = Fraction(
        math.gcd(frame.numerator * late.denominator, late.numerator * frame.denominator), over
    )
    return unit if 1 / unit <= _FINEST or not late else frame / 1000
