"""Text that a media file carries: titles, languages, chapters; and which of it is passed on.

Invariant: what is returned can be written as UTF-8, whatever encoding the source used.
"""

import io
import pathlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av

from skipsr_jax.media.scan import open_container

_OF_THE_FILE = frozenset(
    {"encoder", "duration", "major_brand", "minor_version", "compatible_brands", "creation_time"}
    | {"vendor_id", "software", "variant_bitrate", "number_of_frames"}
    | {"number_of_bytes", "bps", "filename", "mimetype", "alpha_mode"}
    | {"uid", "generation_uid", "operational_pattern_ul", "material_package_umid"}  # of MXF
    | {"file_package_umid", "company_name", "product_name", "product_uid", "product_version"}
    | {"product_version_num", "toolkit_version_num", "application_platform", "modification_date"}
)
"""Tags that describe the source file or its encoder; creation_time is passed on for the whole."""


def readable(text: str) -> str:
    """Text that was read with ``surrogateescape``: as UTF-8 if it is, else as Latin-1."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogateescape").decode("latin-1")
    return text


def tags_to_keep(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tags that say something about the content."""
    return {
        readable(key): readable(value)
        for key, value in metadata.items()
        if key.lower().partition("-")[0] not in _OF_THE_FILE and not key.startswith("_STATISTICS")
    }


def track_tags(metadata: Mapping[str, str], extension: str) -> dict[str, str]:
    """The tags of a track that are passed on. MP4 and QuickTime have its title as the name of its
    handler, which is "SoundHandler" and the like where nobody chose one."""
    tags = tags_to_keep(metadata)
    name = tags.pop("handler_name", "") or tags.pop("HANDLER_NAME", "")  # the latter of Matroska
    if "handler" in name.lower() or "core media" in name.lower() or "@" in name:
        name = ""
    title = tags.get("title") or name
    if title:
        tags["title"] = title
        if extension in (".mp4", ".mov"):
            tags["handler_name"] = title
    return tags


def lost_tags(tags: Mapping[str, str], target: str) -> list[str]:
    """The names of the tags of a file that a container (FFmpeg's name) does not keep."""
    if target not in ("mp4", "mov"):  # the others keep all
        return []
    file = io.BytesIO()
    with av.open(file, "w", format=target) as output:
        output.add_mux_stream("aac", rate=48000).time_base = Fraction(1, 48000)
        output.metadata.update(tags)
        output.start_encoding()
    with av.open(io.BytesIO(file.getvalue())) as written:
        kept = {key.lower() for key in written.metadata}
    return sorted(key for key in tags if key.lower() not in kept and key != "timecode")


def global_tags(container: av.container.InputContainer) -> dict[str, str]:
    """The tags of a whole file that are passed on."""
    tags = tags_to_keep(container.metadata)
    tags.pop("handler_name", None)
    if "creation_time" in container.metadata:
        tags["creation_time"] = readable(container.metadata["creation_time"])
    return tags


def has_timecode(path: pathlib.Path) -> bool:
    """Whether a file says at which timecode it begins."""
    with open_container(path) as container:
        tags = [container.metadata, *(stream.metadata for stream in container.streams)]
    return any("timecode" in each for each in tags)


def chapters_within(
    container: av.container.InputContainer, origin: Fraction, end: Fraction
) -> list[dict[str, Any]]:
    """The chapters that begin before ``end``.

    Args:
      container: the source.
      origin: the time of the source at which the result begins, in seconds.
      end: the time of the source at which it ends.
    """
    chapters = []
    for chapter in container.chapters():
        unit = Fraction(chapter["time_base"])
        start, stop = chapter["start"] * unit, min(chapter["end"] * unit, end)
        if start >= end or stop <= origin:
            continue
        chapters.append(
            {
                "id": chapter["id"],
                "start": max(0, round((start - origin) / unit)),
                "end": round((stop - origin) / unit),
                "time_base": unit,
                "metadata": tags_to_keep(chapter.get("metadata", {})),
            }
        )
    return chapters
