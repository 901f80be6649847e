"""How packets of MPEG-TS and elements of Matroska begin, for what reads a file without FFmpeg."""

EBML_HEADER, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
"""The identifiers of a Matroska file's outermost elements (RFC 8794, RFC 9559)."""
TS_SYNC = 0x47
"""The first byte of a packet of MPEG-TS (ISO/IEC 13818-1, section 2.4.3)."""
_TS_LEADS = {188: 0, 192: 4, 204: 0}  # plain, with a time stamp (M2TS), with a checksum (DVB)
TS_HEAD = 3 * max(_TS_LEADS)
"""Bytes that tell the packets of a file of MPEG-TS."""


def ts_packets(head: bytes) -> tuple[int, int] | None:
    """The bytes of a packet, and those of them in front of ``TS_SYNC``; None for other files.

    ``head``: the first ``TS_HEAD`` bytes of a file, or all of a shorter one.
    """
    for size, lead in _TS_LEADS.items():
        third = lead + 2 * size
        if len(head) > third and {*head[lead : third + 1 : size]} == {TS_SYNC}:
            return size, lead
    return None


def element(head: bytes) -> tuple[bytes, int | None, int]:
    """The identifier of an element of Matroska, the bytes that it holds (None: it does not say) and
    those of its head (RFC 8794, sections 4 to 6); b"" for what is no element.

    ``head``: 12 bytes from the element's first one on, or fewer at the end of a file; of a cut head
    the bytes that the element holds mean nothing.
    """
    if not head or not head[0] >> 4:
        return b"", None, 1
    width = 9 - head[0].bit_length()
    name, rest = head[:width], head[width:]
    if not rest or not rest[0]:
        return b"", None, 1
    size = 9 - rest[0].bit_length()
    unknown = (1 << 7 * size) - 1
    length = int.from_bytes(rest[:size]) & unknown
    return name, None if length == unknown else length, width + size
