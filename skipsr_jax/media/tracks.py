"""Which tracks of a file besides its video an output can hold, and how.

A track is copied where the container can hold its codec, which is tried by writing a header. Audio
that it cannot hold is converted; everything else is left out, and said. Invariant: a plan is made
from the headers alone, before any work, and the writer follows it.
"""

import dataclasses
import io
import itertools
import pathlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import av
from av.bitstream import BitStreamFilterContext

from skipsr_jax.errors import UserError
from skipsr_jax.media.scan import open_container, video_stream_index
from skipsr_jax.media.tags import global_tags, lost_tags, readable

FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
"""FFmpeg's name of the container by the extension of an output."""
AUDIO_CHOICES = ("auto", "none")
"""auto: audio is copied, or converted where the container cannot hold it; none: left out."""

_SEEDS = {"audio": ("aac", "libopus"), "subtitle": ("subrip", "mov_text", "webvtt")}
_LOSSY = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus"}
_LOSSLESS = {"mp4": "flac", "mov": "alac", "matroska": "flac", "webm": "libopus"}
_NAMES = {"aac": "AAC", "flac": "FLAC", "alac": "ALAC", "libopus": "Opus"}
_TRIED_PACKETS = 3

_BY_WAV = ("amr_nb", "amr_wb")
"""Codecs that Matroska holds under Microsoft's code and refuses under that of MP4 and 3GP."""

_NEVER = {"video": "one video track is upscaled", "data": "data tracks are not copied"}
"""Kinds of tracks that no output has, and why."""

How = Literal["template", "parameters", "wav", "convert", "attach", "leave"]


@dataclasses.dataclass(frozen=True)
class Track:
    """A track of the source besides its video.

    Attributes:
      index: of the stream in the source.
      kind: audio, subtitle, attachment, video (a cover picture or another camera) or data.
      name: what it is, for the user: "audio track 2 (aac, eng)".
      how: copied with its codec's "template", with its "parameters" alone or with those of a "wav"
        file, "convert", "attach", or "leave" it out.
      encoder: of an audio track that is converted.
      reason: why it is converted; "" where the container cannot hold it.
    """

    index: int
    kind: str
    name: str
    how: How
    encoder: str = ""
    reason: str = ""


def plan_tracks(path: pathlib.Path, extension: str, audio: str = "auto") -> tuple[Track, ...]:
    """What becomes of each track of the file at ``path`` in an output with this extension.

    Raises UserError when audio can be neither copied nor converted.
    """
    target = FORMATS[extension]
    tracks, numbers = [], {"audio": 0, "subtitle": 0, "video": 0, "data": 0, "attachment": 0}
    with open_container(path) as container:
        main = container.streams.video[video_stream_index(container, path)]
        for stream in container.streams:
            numbers[stream.type] = numbers.get(stream.type, 0) + 1
            if stream.index == main.index or (stream.type == "audio" and audio == "none"):
                continue
            name = _name(stream, numbers[stream.type])
            handling = _handling(path, stream, target)
            if stream.type == "data" and "timecode" in main.metadata | stream.metadata:
                continue  # the writer makes a timecode track from the tag
            if stream.type == "data" and 0 < stream.frames == len(container.chapters()):
                continue  # QuickTime's track of the chapters' titles, which are carried over
            if stream.type == "audio" and handling.how == "leave":
                raise UserError(
                    f"{path}: {name} can be neither copied to {extension} nor converted; "
                    "write .mkv, or leave the audio out: --config.output.audio=none"
                )
            tracks.append(Track(stream.index, stream.type, name, *handling))
    return tuple(tracks)


def notes_of(path: pathlib.Path, tracks: Sequence[Track], extension: str) -> list[str]:
    """One line for each thing that is not in the result as it is in the source at ``path``."""
    notes = [
        f"{track.name} is converted to {_NAMES[track.encoder]}: "
        + (track.reason or f"{extension} cannot hold it")
        for track in tracks
        if track.how == "convert"
    ]
    left = [track for track in tracks if track.how == "leave"]
    for kind, reason in _NEVER.items():
        names = [track.name for track in left if track.kind == kind and "cover" not in track.name]
        if names:
            notes.append(f"left out, because {reason}: {', '.join(names)}")
            left = [track for track in left if track.name not in names]
    lost = [track.name for track in left]
    with open_container(path) as container:
        tags = lost_tags(global_tags(container), FORMATS[extension])
    if tags:
        lost.append(f"tags {', '.join(tags)}")
    if lost:
        better = "" if extension == ".mkv" else "; .mkv may hold more"
        notes.append(f"left out, because {extension} cannot hold it: {', '.join(lost)}{better}")
    return notes


def add_copy(
    output: av.container.OutputContainer, stream: av.stream.Stream, how: How
) -> av.stream.Stream:
    """Adds a stream to ``output`` that takes the packets of ``stream`` as they are.

    Raises ValueError or av.FFmpegError when the container cannot hold it.
    """
    if how == "template":
        return output.add_stream_from_template(stream)
    for seed in _SEEDS.get(stream.type, ()):
        try:
            copy = output.add_mux_stream(seed)
        except ValueError:
            continue
        # The filter passes packets on unchanged. It is made for the parameters that it copies,
        # because PyAV takes a template only of codecs that the container's table of encoders has.
        BitStreamFilterContext("null", _in_wav(stream) if how == "wav" else stream, copy)
        copy.time_base = stream.time_base
        return copy
    raise ValueError(f"{output.format.name} holds no {stream.type}")


def _in_wav(stream: av.AudioStream) -> av.AudioStream:
    """A track as a WAV file states it: with Microsoft's code for its codec. It has no packets."""
    file, context = io.BytesIO(), stream.codec_context
    with av.open(file, "w", format="wav") as output:
        copy = output.add_mux_stream(context.codec.canonical_name, rate=context.sample_rate)
        copy.time_base = Fraction(1, context.sample_rate)
        output.start_encoding()
    return av.open(io.BytesIO(file.getvalue())).streams.audio[0]


class _Handling(NamedTuple):
    """How a track gets into a container; the attributes are those of ``Track``."""

    how: How
    encoder: str = ""
    reason: str = ""


_LEFT = _Handling("leave")


def _handling(path: pathlib.Path, stream: av.stream.Stream, target: str) -> _Handling:
    """How a track gets into a container, and if it is converted, the encoder and the reason."""
    if stream.type == "attachment":
        return _Handling("attach") if target == "matroska" else _LEFT
    if stream.type == "video" and not stream.disposition & av.stream.Disposition.attached_pic:
        return _LEFT
    if stream.type not in ("audio", "subtitle", "video"):
        return _LEFT
    if stream.type == "audio":
        return _handling_of_audio(path, stream, target)
    return _Handling("template") if _takes_header(stream, target) else _LEFT


def _handling_of_audio(path: pathlib.Path, stream: av.stream.Stream, target: str) -> _Handling:
    context = stream.codec_context
    if context is None:  # no decoder knows it
        return _LEFT
    name, reason = context.codec.canonical_name, ""
    if target == "mp4" and name.startswith("pcm_") and not name.startswith("pcm_s16"):
        reason = "only new players read it right from .mp4"
    elif name == "tta":  # FLAC loses nothing either
        reason = "FFmpeg reads its last second wrong from .mkv" if target == "matroska" else ""
    else:
        tried: tuple[How, ...] = ("template",)
        if target == "matroska":
            tried = ("template", "parameters", *(["wav"] if name in _BY_WAV else []))
        for how in tried:
            refusal = _refusal(path, stream, target, how)
            if refusal is None:
                return _Handling(how)
            reason = reason or refusal
    if not context.sample_rate:
        return _LEFT
    lossless = context.codec.lossless and not context.codec.lossy
    return _Handling("convert", (_LOSSLESS if lossless else _LOSSY)[target], reason)


def _takes_header(stream: av.stream.Stream, target: str) -> bool:
    """Whether a container begins with a track that is copied. Its packets may come late."""
    if stream.codec_context is None:
        return False
    try:
        with av.open(io.BytesIO(), "w", format=target) as output:
            copy = add_copy(output, stream, "template")
            copy.disposition = stream.disposition
            output.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    return True


def _refusal(path: pathlib.Path, stream: av.stream.Stream, target: str, how: How) -> str | None:
    """Why an audio track is not copied into a file; None where its first packets are read from
    there as its codec, and "" where the container cannot hold it.

    Some containers refuse a track only when the file ends, after all of the work.
    """
    file = io.BytesIO()
    try:
        with open_container(path) as source, av.open(file, "w", format=target) as output:
            track = source.streams[stream.index]
            copy = add_copy(output, track, how)
            output.start_encoding()
            packets = (packet for packet in source.demux(track) if packet.size)
            last = None
            for number, packet in enumerate(itertools.islice(packets, _TRIED_PACKETS)):
                if packet.dts is None:
                    packet.dts = packet.pts = number
                rises, last = last is None or packet.dts > last, packet.dts
                packet.stream = copy
                try:
                    output.mux(packet)
                except (av.error.InvalidDataError, av.error.ArgumentError):
                    return "it is damaged" if rises else "its time stamps do not rise"
        with av.open(io.BytesIO(file.getvalue())) as written:
            found = written.streams.audio[0].codec_context
            same = found is not None and _family(found) == _family(stream.codec_context)
    except (ValueError, LookupError, av.FFmpegError):
        return ""
    return None if same else ""


def _family(context: av.AudioCodecContext) -> str:
    """The name of a codec; one for the layers of MPEG audio, which decoders tell by the packets."""
    name = context.codec.canonical_name
    return "mp3" if name in ("mp1", "mp2") else name


def _name(stream: av.stream.Stream, number: int) -> str:
    metadata = {key: readable(value) for key, value in stream.metadata.items()}
    if stream.type == "attachment":
        return f"attachment {metadata.get('filename', number)}"
    if stream.type == "data":
        return f"data track {number} ({metadata.get('handler_name', 'unknown')})"
    if stream.type == "video":
        cover = stream.disposition & av.stream.Disposition.attached_pic
        return f"cover picture ({stream.name})" if cover else f"video track {number}"
    codec = (
        "unknown codec"
        if stream.codec_context is None
        else stream.codec_context.codec.canonical_name
    )
    language = metadata.get("language", "und")
    kind = "subtitle" if stream.type == "subtitle" else "audio"
    details = codec if language == "und" else f"{codec}, {language}"
    return f"{kind} track {number} ({details})"
