"""Whether a file of video ends before its container says so, by the container's own sizes.

Each function reads headers and sizes, no frame, and returns where the file is cut, in words; "" if
nothing says so. Matroska also states how long it lasts, which `skipsr_jax.media.scan` compares.
A file of MPEG-TS or MPEG-PS that was cut between two packets is whole by its sizes: these formats
are made to be cut there. So is a fragmented MP4 that was cut between two boxes.
Invariant: a file that is not cut is never said to be cut.
"""

import io
import os
import pathlib

from skipsr_jax.media.byte_layout import EBML_HEADER, SEGMENT, TS_HEAD, element, ts_packets

_GIF_TRAILER, _GIF_EXTENSION, _GIF_IMAGE = b"\x3b", b"\x21", b"\x2c"
_FLV_TAG = 11  # bytes of a tag's header; 4 behind it repeat its size
_ASF_OBJECT = 24  # bytes of an object's GUID and size
_PS_TAIL = 1 << 20  # bytes of a program stream that are looked at
_MXF_KEY = b"\x06\x0e\x2b\x34"
_Y4M_CHROMA = {
    "420": (2, 2, 2), "411": (2, 4, 1), "422": (2, 2, 1), "444alpha": (3, 1, 1), "444": (2, 1, 1),
}  # fmt: skip
"""Planes beside luma, and the pixels that share a sample across and down, by the colour space."""
_BOXES = frozenset(
    b"ftyp moov mdat free skip wide pnot meta uuid styp sidx ssix moof mfra emsg prft pdin".split()
)
"""Types of the boxes on the outermost level of MP4, QuickTime and fragmented files."""
_PS_PACK, _PS_END = b"\0\0\1\xba", b"\0\0\1\xb9"
_MOV = "mov,mp4,m4a,3gp,3g2,mj2"
_MATROSKA = "matroska,webm"
_FIRST_BYTES = {
    b"FLV": "flv",
    b"GIF8": "gif",
    b"RIFF": "avi",
    b"YUV4MPEG2": "yuv4mpegpipe",
    b"\x30\x26\xb2\x75": "asf",
    _PS_PACK: "mpeg",
    EBML_HEADER: _MATROSKA,
    _MXF_KEY: "mxf",
}
"""How files of the formats begin, beside those of boxes and MPEG-TS."""


def early_end(path: pathlib.Path, data: bytes | None, container: str | None = None) -> str:
    """Where the file at ``path`` is cut, or ``data``, the bytes of such a file; "" if it is whole.

    Args:
      path: the file.
      data: its bytes, where they are in memory; ``path`` is then only its name.
      container: FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2"; None: the one that
        the file begins as, for files that FFmpeg cannot open.

    Raises OSError where the file cannot be read.
    """
    searches = {
        "mpegts": _cut_ts,
        "mpeg": _cut_ps,
        "flv": _cut_flv,
        "asf": _cut_asf,
        "gif": _cut_gif,
        "avi": _cut_riff,
        _MOV: _cut_boxes,
        _MATROSKA: _cut_elements,
        "mxf": _cut_mxf,
        "yuv4mpegpipe": _cut_y4m,
    }
    with path.open("rb") if data is None else io.BytesIO(data) as file:
        cut = searches.get(_format_of(file.read(12)) if container is None else container)
        if cut is None:
            return ""
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        return cut(file, end)


def _format_of(head: bytes) -> str:
    """FFmpeg's name of the format that a file begins as; MPEG-TS where it is no other."""
    if head[4:8] in _BOXES:
        return _MOV
    found = (name for first, name in _FIRST_BYTES.items() if head.startswith(first))
    return next(found, "mpegts")


def _cut_riff(file: io.BufferedIOBase, size: int) -> str:
    """AVI: RIFF chunks, one after the other, each with its size.

    The number of frames in the header says less: empty frames, which repeat a picture, count there.
    """
    end = 0
    while len(head := file.read(8)) == 8 and head[:4] == b"RIFF":
        end += 8 + int.from_bytes(head[4:], "little")
        end += end % 2
        file.seek(end)
    return f"its chunks have {end} bytes, of which {size} are there" if end > size + 1 else ""


def _cut_boxes(file: io.BufferedIOBase, size: int) -> str:
    """MP4 and QuickTime: boxes, each with its size (ISO/IEC 14496-12, section 4.2).

    The outermost level alone is read. A box of size 0 reaches to the end, so that it cannot be cut.
    """
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        kind, length = head[4:8], int.from_bytes(head[:4], "big")
        if kind not in _BOXES:
            return ""  # bytes behind the last box, or damage
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:
            return ""
        if position + length > size:
            name = kind.decode("ascii")
            return f"its last box, {name}, has {size - position} of {length} bytes"
        position += length
    return ""


def _cut_elements(file: io.BufferedIOBase, size: int) -> str:
    """Matroska and WebM: a header and segments with their sizes (RFC 8794, sections 4 to 6).

    A segment of unknown size, as live streams have, reaches to the end and cannot be cut.
    """
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(12)
        name, length, before = element(head)
        if name not in (EBML_HEADER, SEGMENT) or length is None or len(head) < before:
            return ""
        length += before
        if position + length > size:
            return f"its last element has {size - position} of {length} bytes"
        position += length
    return ""


def _cut_ts(file: io.BufferedIOBase, size: int) -> str:
    """MPEG-TS: packets of one size."""
    found = ts_packets(file.read(TS_HEAD))
    if found is None:
        return ""
    packet, _ = found
    rest = size % packet
    return f"its last packet has {rest} of {packet} bytes" if rest else ""


def _cut_ps(file: io.BufferedIOBase, size: int) -> str:
    """MPEG-PS: packs of packets, each with its size; the last ones are followed to the end."""
    position = max(0, size - _PS_TAIL)
    file.seek(position)
    tail = file.read()
    position = tail.find(_PS_PACK)
    while 0 <= position < len(tail):
        start = tail[position : position + 4]
        if start == _PS_END or start[:3] != b"\0\0\1"[: len(start)] or not any(start):
            return ""  # the end, or padding that some writers leave
        if len(head := tail[position : position + 14]) < 14 and start == _PS_PACK:
            return f"its last pack has {len(head)} of 14 bytes"
        if start == _PS_PACK:
            is_mpeg2 = head[4] & 0xC0 == 0x40
            length = 14 + (head[13] & 7) if is_mpeg2 else 12
        else:
            length = 6 + int.from_bytes(head[4:6], "big")
        if position + length > len(tail):
            return f"its last packet has {len(tail) - position} of {length} bytes"
        position += length
    return ""


def _cut_flv(file: io.BufferedIOBase, size: int) -> str:
    """FLV: tags, each with its size in front and behind."""
    position = int.from_bytes(file.read(9)[5:9], "big") + 4
    while position < size:
        file.seek(position)
        head = file.read(_FLV_TAG)
        if len(head) == _FLV_TAG and head[0] & 0x1F not in (8, 9, 18):
            return ""  # no tag: damaged here, and a reader goes on behind it
        length = _FLV_TAG + int.from_bytes(head[1:4], "big") + 4
        if position + length > size:
            return f"its last tag has {size - position} of {length} bytes"
        position += length
    return ""


def _cut_asf(file: io.BufferedIOBase, size: int) -> str:
    """ASF (WMV): objects with their sizes; 0 in the size of the data is a stream without an end."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(_ASF_OBJECT)
        length = int.from_bytes(head[16:24], "little")
        if len(head) == _ASF_OBJECT and length < _ASF_OBJECT:
            return ""
        if position + length > size or len(head) < _ASF_OBJECT:
            return f"its last object has {size - position} of {max(length, _ASF_OBJECT)} bytes"
        position += length
    return ""


def _cut_gif(file: io.BufferedIOBase, size: int) -> str:
    """GIF: blocks up to a trailer (GIF89a specification, sections 15 to 27)."""

    def skip_table(flags: int) -> None:
        if flags & 0x80:
            file.seek(3 * 2 ** ((flags & 7) + 1), os.SEEK_CUR)

    def skip_sub_blocks() -> None:
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], os.SEEK_CUR)

    skip_table((file.read(13) + bytes(13))[10])
    while (kind := file.read(1)) in (_GIF_EXTENSION, _GIF_IMAGE):
        if kind == _GIF_EXTENSION:
            file.seek(1, os.SEEK_CUR)
        else:
            skip_table((file.read(9) + bytes(9))[8])
            file.seek(1, os.SEEK_CUR)
        skip_sub_blocks()
    return "it has no trailer" if kind == b"" or file.tell() > size else ""


def _cut_mxf(file: io.BufferedIOBase, size: int) -> str:
    """MXF: items of a key of 16 bytes, a length in BER form and a value (SMPTE 336M)."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(25)
        if head[:4] != _MXF_KEY[: len(head)]:
            return ""
        first = head[16] if len(head) > 16 else 0
        extra = first & 0x7F if first & 0x80 else 0  # bytes of a length above 127
        length = 17 + extra + (int.from_bytes(head[17 : 17 + extra], "big") if extra else first)
        if position + length > size or len(head) < 17:
            return f"its last item has {size - position} of {length} bytes"
        position += length
    return ""


def _cut_y4m(file: io.BufferedIOBase, size: int) -> str:
    """YUV4MPEG2: a line, then frames of one size, each behind a line of its own."""
    fields = {field[:1]: field[1:].decode("latin-1") for field in file.readline().split()[1:]}
    try:
        width, height = int(fields[b"W"]), int(fields[b"H"])
    except (KeyError, ValueError):
        return ""
    kind = fields.get(b"C", "420")
    chroma = next((name for name in _Y4M_CHROMA if kind.startswith(name)), None)
    if chroma is None:
        return ""
    planes, across, down = _Y4M_CHROMA[chroma]
    frame = width * height + planes * -(-width // across) * -(-height // down)
    deep = kind.removeprefix(chroma)
    frame *= 2 if deep[:1] == "p" and deep[1:].isdigit() and int(deep[1:]) > 8 else 1
    while line := file.readline():
        start = file.tell()
        if not line.startswith(b"FRAME") or frame == 0:
            return ""
        if start + frame > size:
            return f"its last frame has {size - start} of {frame} bytes"
        file.seek(start + frame)
    return ""
