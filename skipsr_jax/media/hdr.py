"""Metadata of high dynamic range: mastering display, light levels (HDR10), and what else there is.

Source: SMPTE ST 2086 and CTA-861.3; FFmpeg's structures AVMasteringDisplayMetadata and
AVContentLightMetadata. Invariant: values are written as they were read; what cannot be written is
named.
"""

import dataclasses
import struct
from fractions import Fraction

import av
from av.sidedata.sidedata import Type as SideDataType

_RATIONALS = 10  # three primaries and the white point, x and y; least and greatest luminance
_HLG = 18  # H.273 transfer
_CHROMATICITY_STEPS = 50_000  # units of x265 and x264: 0.00002 and 0.0001 cd/m2
_LUMINANCE_STEPS = 10_000


@dataclasses.dataclass(frozen=True)
class Hdr:
    """What the first frame of a video says of its dynamic range.

    Attributes:
      primaries: x and y of red, green, blue and white; empty where they are not stated.
      luminance: the least and the greatest, in cd/m2; empty where they are not stated.
      light: greatest light level of a pixel and of a frame's mean, in cd/m2; empty if not stated.
      others: names of metadata that no output here can hold.
    """

    primaries: tuple[Fraction, ...] = ()
    luminance: tuple[Fraction, ...] = ()
    light: tuple[int, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def is_hdr10(self) -> bool:
        """Whether there is something that `encoder_options` writes."""
        return bool((self.primaries and self.luminance) or self.light)

    def notes(self, transfer: int) -> tuple[str, ...]:
        """What a user should know, a line each. ``transfer``: by H.273."""
        notes = [f"{name} is left out" for name in self.others]
        if "Dolby Vision metadata" in self.others:
            notes[0] += (
                ": its base layer is upscaled, which has colours of its own in profiles 7 and 8; "
                "convert profile 5 to HDR10 first"
            )
        if transfer == _HLG:
            notes.append("HLG (hybrid log-gamma) is kept: codes are upscaled as they are")
        return tuple(notes)


NO_HDR = Hdr()


def hdr_of(frame: av.VideoFrame) -> Hdr:
    """Reads the metadata of a decoded frame."""
    primaries: tuple[Fraction, ...] = ()
    luminance: tuple[Fraction, ...] = ()
    light: tuple[int, ...] = ()
    mastering = frame.side_data.get(SideDataType.MASTERING_DISPLAY_METADATA)
    if mastering is not None:
        numbers = struct.unpack_from(f"<{2 * _RATIONALS + 2}i", bytes(mastering))
        pairs = zip(numbers[: 2 * _RATIONALS : 2], numbers[1 : 2 * _RATIONALS : 2], strict=True)
        values = tuple(Fraction(num, den) if den else Fraction(0) for num, den in pairs)
        primaries = values[:8] if numbers[-2] else ()
        luminance = values[8:] if numbers[-1] else ()
    levels = frame.side_data.get(SideDataType.CONTENT_LIGHT_LEVEL)
    if levels is not None:
        light = struct.unpack_from("<2I", bytes(levels))
    others = []
    dolby = (SideDataType.DOVI_METADATA, SideDataType.DOVI_RPU_BUFFER)
    if any(frame.side_data.get(kind) is not None for kind in dolby):
        others.append("Dolby Vision metadata")
    if frame.side_data.get(SideDataType.DYNAMIC_HDR_PLUS) is not None:
        others.append("HDR10+ metadata")
    if frame.side_data.get(SideDataType.DYNAMIC_HDR_VIVID) is not None:
        others.append("HDR Vivid metadata")
    return Hdr(primaries, luminance, light, tuple(others))


def encoder_options(hdr: Hdr, codec: str) -> dict[str, str] | None:
    """The parameters that an encoder takes for the metadata; None for one that takes none."""
    names = {
        "libx265": ("master-display", "max-cll"),
        "libx264": ("mastering-display", "cll"),
        "libsvtav1": ("mastering-display", "content-light"),
    }.get(codec)
    if names is None:
        return None
    display, levels = names
    options = {}
    if hdr.primaries and hdr.luminance:
        steps = (1, 1) if codec == "libsvtav1" else (_CHROMATICITY_STEPS, _LUMINANCE_STEPS)

        def number(value: Fraction, step: int) -> str:
            return f"{float(value):.6g}" if step == 1 else str(round(value * step))

        red, green, blue, white = (
            f"({number(x, steps[0])},{number(y, steps[0])})"
            for x, y in zip(hdr.primaries[::2], hdr.primaries[1::2], strict=True)
        )
        least, most = (number(value, steps[1]) for value in hdr.luminance)
        options[display] = f"G{green}B{blue}R{red}WP{white}L({most},{least})"
    if hdr.light:
        options[levels] = f"{hdr.light[0]},{hdr.light[1]}"
    return options
