"""When the frames of a video are shown: time stamps, frame rate, and whether the rate varies.

Times are exact fractions of a second. A clip has a constant rate when one of the rates that its
container states explains every time stamp to within the rounding of the time base; such a clip is
written again with that rate, any other with its time stamps. Time stamps that repeat, run backwards
or are absent are replaced one by one, between the neighbours that are kept.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from skipsr_jax.types import HostArray, Int

_DEFAULT_RATE = Fraction(25)  # of a clip whose container states no rate
_NTSC = 1001  # the denominator of the usual rates that are no whole number
_LONGER = Fraction(5, 4)  # a last frame that lasts this much longer than the others is a pause


@dataclasses.dataclass(frozen=True, eq=False)
class Timing:
    """The time stamps of a video's frames.

    Attributes:
      rate: frames per second; the average that the container states where the rate varies.
      time_base: seconds of a tick.
      ticks: presentation time stamps of the frames in display order, rising, in units of
        ``time_base``.
      end: the time stamp at which the last frame is no longer shown.
      is_constant: whether frame ``i`` is shown ``i / rate`` seconds after the first, for
        ``1 / rate`` seconds.
      repaired: how many time stamps were absent or out of order, and are guesses.
    """

    rate: Fraction
    time_base: Fraction
    ticks: Int[HostArray, " f"]
    end: int
    is_constant: bool
    repaired: int = 0

    @property
    def start(self) -> Fraction:
        """When the first frame is shown, in seconds of the container's clock."""
        return int(self.ticks[0]) * self.time_base

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last; 0 without frames."""
        if self.is_constant or not len(self.ticks):
            return len(self.ticks) / self.rate
        return (self.end - int(self.ticks[0])) * self.time_base

    @property
    def times(self) -> tuple[Fraction, ...] | None:
        """Seconds of each frame after the first one where the rate varies, else None."""
        if self.is_constant:
            return None
        return tuple(tick * self.time_base for tick in (self.ticks - self.ticks[0]).tolist())

    def frames_before(self, tick: int | None) -> int:
        """How many frames are shown before the one with this time stamp; 0 when it has none."""
        return 0 if tick is None else int(np.searchsorted(self.ticks, tick))

    def of_fields(self) -> "Timing":
        """The timing of a clip whose fields are shown as frames: two for each frame."""
        ends = np.append(self.ticks[1:], self.end)
        ticks = np.stack([2 * self.ticks, self.ticks + ends], axis=1).reshape(-1)
        return dataclasses.replace(
            self, rate=2 * self.rate, time_base=self.time_base / 2, ticks=ticks, end=2 * self.end
        )

    def part(self, first: int, count: int) -> "Timing":
        """The timing of ``count`` frames from frame ``first`` on."""
        last = first + count
        end = int(self.ticks[last]) if last < len(self.ticks) else self.end
        return dataclasses.replace(self, ticks=self.ticks[first:last], end=end)

    def without(self, count: int) -> "Timing":
        """The timing without the first ``count`` frames."""
        return dataclasses.replace(self, ticks=self.ticks[count:])


def timing_of(
    ticks: Sequence[int | None],
    time_base: Fraction,
    stated: Sequence[Fraction],
    last_duration: int | None = None,
) -> Timing:
    """Returns the timing of one or more frames with these time stamps.

    Args:
      ticks: presentation time stamps in display order, None where a frame has none.
      time_base: seconds of a tick.
      stated: rates that the container states, the likeliest first; may be empty.
      last_duration: ticks for which the last frame is shown; None or 0 where nothing says so.
    """
    kept = _rising(ticks)
    rates = list(stated) or [_DEFAULT_RATE]
    if len(kept) > 1:  # Matroska need not state a rate
        ends = [tick for index in (kept[0], kept[-1]) if (tick := ticks[index]) is not None]
        mean = (kept[-1] - kept[0]) / ((ends[1] - ends[0]) * time_base)
        rounded = mean.limit_denominator(_NTSC)
        rates += [rounded] if rounded else []  # damaged stamps may lie years apart
    spacing = max(1, round(1 / (rates[0] * time_base)))
    whole = _filled(ticks, kept, spacing)
    rate = _constant_rate(whole, time_base, rates)
    usual = float(np.median(np.diff(whole))) if rate is None and len(whole) > 1 else spacing
    last = round(usual)
    if last_duration and (rate is None or last_duration > _LONGER * usual + 1):
        last, rate = last_duration, None
    return Timing(
        rate=rate or rates[0],
        time_base=time_base,
        ticks=np.array(whole, np.int64),
        end=whole[-1] + max(1, last),
        is_constant=rate is not None,
        repaired=len(ticks) - len(kept),
    )


def _rising(ticks: Sequence[int | None]) -> list[int]:
    """Indices of the longest strictly rising subsequence; of equal ticks the first is kept, and
    of two in the wrong order the greater."""
    tails: list[int] = []  # minus the greatest first tick of a sequence of each length
    heads: list[int] = []  # the index of that tick
    after: dict[int, int | None] = {}
    for index in range(len(ticks) - 1, -1, -1):
        tick = ticks[index]
        if tick is None:
            continue
        length = bisect.bisect_left(tails, -tick)
        after[index] = heads[length - 1] if length else None
        tails[length : length + 1] = [-tick]
        heads[length : length + 1] = [index]
    kept: list[int] = []
    index = heads[-1] if heads else None
    while index is not None:
        kept.append(index)
        index = after[index]
    return kept


def _filled(ticks: Sequence[int | None], kept: Sequence[int], spacing: int) -> list[int]:
    """All ticks, rising: those of ``kept`` indices as they are, the others spread between them."""
    if not kept:
        return [index * spacing for index in range(len(ticks))]
    indices = np.arange(len(ticks))
    known = [tick for index in kept if (tick := ticks[index]) is not None]
    whole = np.round(np.interp(indices, kept, known)).astype(np.int64)
    first, last = kept[0], kept[-1]
    whole[:first] -= spacing * (first - indices[:first])
    whole[last + 1 :] += spacing * (indices[last + 1 :] - last)
    if len(kept) < len(ticks):  # where fewer ticks than frames lie between two that are kept
        whole = np.maximum.accumulate(whole - indices) + indices
    return whole.tolist()


def _constant_rate(
    ticks: Sequence[int], time_base: Fraction, rates: Sequence[Fraction]
) -> Fraction | None:
    """The stated rate that explains all time stamps to within their own rounding, if one does."""
    if len(ticks) == 1:
        return rates[-1]
    spacing = min(after - before for before, after in itertools.pairwise(ticks)) * time_base
    tolerance = min(time_base, spacing / 4)
    for rate in rates:
        if all(
            abs((tick - ticks[0]) * time_base - number / rate) <= tolerance
            for number, tick in enumerate(ticks)
        ):
            return rate
    return None
