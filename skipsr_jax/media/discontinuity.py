"""Bridges jumps of time stamps within one file: joined recordings, clocks that were set back.

Invariant: the packets of all streams are moved together, so that sound and picture keep their
distance, and a packet that follows without a jump keeps its distance to the one before. The rule is
that of the ffmpeg program (``ts_discontinuity_process``): only there do players agree.
"""

from fractions import Fraction

import av

_FORWARD = 10  # seconds; a longer gap is no pause but another clock
_BACKWARD = Fraction(1, 10)  # seconds; less is the jitter of a multiplexer
_DISCONTINUOUS = av.format.Flags.ts_discont.value


class Bridge:
    """Moves the packets of one container so that their time stamps are continuous.

    Call it with every packet of the audio and video streams in the order of the file.

    Attributes:
      jumps: how many jumps have been bridged.
    """

    def __init__(self, container: av.container.InputContainer):
        """Forward jumps are bridged only in formats whose clock may jump, such as MPEG-TS;
        elsewhere a long gap is a long gap."""
        self.jumps = 0
        self._forward = bool(container.format.flags & _DISCONTINUOUS)
        self._offset = Fraction(0)
        self._last: dict[int, tuple[Fraction, Fraction]] = {}
        self._latest: Fraction | None = None

    def __call__(self, packet: av.Packet) -> None:
        """Moves the time stamps of a packet, in place."""
        if packet.time_base is None or (packet.dts is None and packet.pts is None):
            return
        unit = Fraction(packet.time_base)  # PyAV 19 has a type of its own
        if packet.stream.type in ("audio", "video"):
            self._follow(packet, unit)
        if self._offset:
            ticks = round(self._offset / unit)
            packet.pts = None if packet.pts is None else packet.pts + ticks
            packet.dts = None if packet.dts is None else packet.dts + ticks

    def _follow(self, packet: av.Packet, unit: Fraction) -> None:
        index, length = packet.stream.index, (packet.duration or 0) * unit
        last, expected = self._last.get(index, (None, self._latest))
        if packet.dts is None:
            if last is not None and expected is not None:  # a field without a stamp of its own
                self._last[index] = last, expected + length
            return
        stamp = packet.dts * unit + self._offset
        if expected is not None:
            jumped = self._forward and abs(stamp - expected) > _FORWARD
            if jumped or (last is not None and stamp + _BACKWARD < last):
                self.jumps += 1
                self._offset += expected - stamp
            stamp = packet.dts * unit + self._offset
        self._last[index] = stamp, stamp + length
        self._latest = stamp + length if self._latest is None else max(self._latest, stamp + length)
