"""When the frames of a video are shown: time stamps, frame rate, and whether the rate varies.

Times are exact fractions of a second. A clip has a constant rate when one of the rates that its
container states explains every time stamp to within the rounding of the time base; such a clip is
written again with that rate, any other with its time stamps.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from skipsr_jax.types import HostArray, Int

_DEFAULT_RATE = Fraction(25)  # of a clip whose container states no rate


@dataclasses.dataclass(frozen=True, eq=False)
class Timing:
    """The time stamps of a video's frames.

    Attributes:
      rate: frames per second; the average that the container states where the rate varies.
      time_base: seconds of a tick.
      ticks: presentation time stamps of the frames in display order, in units of ``time_base``;
        None where the container states none that can be trusted (AVI counts in coding order).
      is_constant: whether frame ``i`` is shown ``i / rate`` seconds after the first.
    """

    rate: Fraction
    time_base: Fraction
    ticks: Int[HostArray, " f"] | None
    is_constant: bool

    @property
    def start(self) -> Fraction:
        """When the first frame is shown, in seconds of the container's clock; 0 when unknown."""
        return Fraction(0) if self.ticks is None else int(self.ticks[0]) * self.time_base

    @property
    def times(self) -> tuple[Fraction, ...] | None:
        """Seconds of each frame after the first one where the rate varies, else None."""
        if self.is_constant or self.ticks is None:
            return None
        return tuple(tick * self.time_base for tick in (self.ticks - self.ticks[0]).tolist())

    def frames_before(self, tick: int | None) -> int:
        """How many frames are shown before the one with this time stamp; 0 when unknown."""
        if self.ticks is None or tick is None:
            return 0
        return int(np.searchsorted(self.ticks, tick))


def timing_of(
    ticks: Sequence[int | None], time_base: Fraction, stated: Sequence[Fraction], *, trusted: bool
) -> Timing:
    """Returns the timing of one or more frames with these time stamps, in any order.

    Args:
      ticks: presentation time stamps, None where a frame has none.
      time_base: seconds of a tick.
      stated: rates that the container states, the likeliest first; may be empty.
      trusted: whether the container's time stamps say when a frame is shown.
    """
    rates = list(stated) or [_DEFAULT_RATE]
    known = sorted(tick for tick in ticks if tick is not None)
    if not trusted or len(set(known)) < len(ticks):
        return Timing(rates[0], time_base, None, True)
    rate = _constant_rate(known, time_base, rates)
    return Timing(rate or rates[0], time_base, np.array(known, np.int64), rate is not None)


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
