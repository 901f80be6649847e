"""Names the files of results, checks them before any work, and opens their writers.

Invariant: a file that exists is not replaced unless the user asks for it, and every problem that
can be found beforehand is raised before the model is loaded.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from types import TracebackType

from skipsr_jax.errors import UserError
from skipsr_jax.files import identity, shortened
from skipsr_jax.inference.done_notes import has_note
from skipsr_jax.inference.pipeline import OutputFormat
from skipsr_jax.inference.settings import Output, Size
from skipsr_jax.media.alpha import upscaled_alpha
from skipsr_jax.media.encoding import Encoding, keeps_alpha
from skipsr_jax.media.image_writer import (
    FrameFolderWriter,
    check_folder_output,
    check_image_output,
    holds_alpha,
    write_image,
)
from skipsr_jax.media.inputs import is_image, is_media
from skipsr_jax.media.reader import Media
from skipsr_jax.media.segment_writer import SegmentWriter
from skipsr_jax.media.video_writer import (
    WRITABLE_VIDEO_EXTENSIONS,
    VideoWriter,
    check_video_output,
)
from skipsr_jax.types import HostArray

DEFAULT_FOLDER = "outputs"


class ImageWriter(contextlib.AbstractContextManager):
    """Writes the one frame of a picture."""

    def __init__(self, path: pathlib.Path, source: Media, overwrite: bool):
        self._path, self._source, self._overwrite = path, source, overwrite
        self._before = identity(path)
        self._frame: HostArray | None = None

    def write(self, frame: HostArray) -> None:
        """Keeps the frame until the end."""
        self._frame = frame

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._frame is not None:
            source, alpha = self._source, None
            if source.keep_alpha:
                alpha = upscaled_alpha(next(source.alphas()), self._frame.shape[:2])
            write_image(
                self._path,
                self._frame,
                overwrite=self._overwrite,
                before=self._before,
                icc_profile=source.icc_profile,
                alpha=alpha,
            )


def format_of(writer: "Writer", media: Media) -> OutputFormat:
    """What ``write`` takes for a writer: planes for a video, RGB for pictures."""
    return writer.yuv_format if isinstance(writer, VideoWriter) else rgb_bits(media)


def rgb_bits(media: Media) -> int:
    """Bits of RGB for what an input becomes: 8 where it has 8, else 16."""
    return 8 if media.bit_depth == 8 else 16


def write(writer: "Writer", codes: Sequence[HostArray]) -> None:
    """Appends a frame to a file: three planes, or one array of RGB."""
    if len(codes) == 1:
        writer.write(codes[0])
    else:
        writer.write_planes(codes)


Writer = VideoWriter | FrameFolderWriter | ImageWriter
"""Takes frames one by one; the result appears at a clean end of the ``with`` block."""


def default_name(media: Media, target: tuple[int, int], size: Size) -> str:
    """<name>_x4.mp4, or <name>_1280x720.mp4 when a height or width was asked for."""
    by_factor = not (size.height or size.width)
    suffix = f"x{size.factor:g}" if by_factor else f"{target[1]}x{target[0]}"
    if media.kind == "frames":
        name = media.path.resolve().name
        return shortened(name, f"_{suffix}") + f"_{suffix}"
    extension = ".png"
    if media.kind == "video":
        extension = media.path.suffix.lower()
        if extension not in WRITABLE_VIDEO_EXTENSIONS:
            extension = ".mkv" if media.has_audio else ".mp4"
    rest = f"_{suffix}{extension}"
    return shortened(media.path.stem, f"_mask{rest}") + rest


def output_paths(
    inputs: Sequence[Media],
    targets: Sequence[tuple[int, int]],
    size: Size,
    output: str | None,
    several: bool = False,
) -> list[pathlib.Path]:
    """One path for each input. ``output`` names the file for one input, else a folder.

    ``several``: it is a folder for one input too, because there were others.

    Raises UserError when the folder is a file, or is to be made with the name of one. Inputs of
    which `clashes` says something get the same path.
    """
    names = [default_name(m, t, size) for m, t in zip(inputs, targets, strict=True)]
    if output and len(inputs) == 1 and not several:
        path = pathlib.Path(output)
        return [path / names[0] if _takes_results(path, inputs[0]) else path]
    folder = pathlib.Path(output or DEFAULT_FOLDER)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; results go into a folder of that name")
    _check_folder_name(folder, "several results")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror}") from error
    return [folder / name for name in names]


def clashes(inputs: Sequence[Media], targets: Sequence[tuple[int, int]], size: Size) -> list[str]:
    """What keeps each of several inputs from a result of its own; "" where nothing does.

    An input that is given twice keeps the result where it is named first.
    """
    names = [default_name(m, t, size) for m, t in zip(inputs, targets, strict=True)]
    files = [media.path.resolve() for media in inputs]
    wanting: dict[str, dict[pathlib.Path, int]] = {}  # name: each file, and who gives it first
    for index, (name, file) in enumerate(zip(names, files, strict=True)):
        wanting.setdefault(name, {}).setdefault(file, index)
    lines = []
    for index, (name, file) in enumerate(zip(names, files, strict=True)):
        path, line = inputs[index].path, ""
        other = next((first for rival, first in wanting[name].items() if rival != file), None)
        if wanting[name][file] < index:
            line = f"{path} is given twice: name it once"
        elif other is not None:
            line = f"{path} and {inputs[other].path} would both become {name}: rename one"
        lines.append(line)
    return lines


def _check_folder_name(path: pathlib.Path, contents: str) -> None:
    """Raises UserError where a folder that is still to be made has the name of a media file."""
    if is_media(path) and not path.is_dir():
        raise UserError(
            f"cannot write {contents} into one file {path}: name a folder, without {path.suffix}"
        )


def _takes_results(path: pathlib.Path, media: Media) -> bool:
    """Whether the result of an input goes into the folder ``path``, and is not that folder.

    A folder is a result itself where an earlier run noted it and it holds images alone.
    """
    if not path.is_dir():
        return False
    entries = [item for item in path.iterdir() if not item.name.startswith(".")]
    if not entries:
        return media.kind != "frames"
    is_result = has_note(path) and all(item.is_file() and is_image(item) for item in entries)
    return media.kind == "image" or not is_result


def check_options(paths: Sequence[pathlib.Path], inputs: Sequence[Media], output: Output) -> None:
    """Raises UserError for settings of videos where no result is one: they would do nothing."""
    chosen = [f.name for f in dataclasses.fields(output) if getattr(output, f.name) != f.default]
    kinds = {_holds(path, media) for path, media in zip(paths, inputs, strict=True)}
    if chosen and kinds and "video" not in kinds:
        names = " and ".join(f"config.output.{name}" for name in chosen)
        raise UserError(f"{names} is for videos, and {paths[0]} is none: leave it out")


def mask_path(path: pathlib.Path) -> pathlib.Path:
    """The path of the mask pictures of a result: <name>_mask beside it."""
    return path.with_name(f"{path.stem}_mask{path.suffix}")


def _holds(path: pathlib.Path, media: Media) -> str:
    """The kind of result at ``path``: image, video or frames (a folder)."""
    if media.kind == "image":
        return "image"
    if media.kind == "frames":
        return "video" if path.suffix.lower() in WRITABLE_VIDEO_EXTENSIONS else "frames"
    return "video" if path.suffix else "frames"


def with_alpha(media: Media, path: pathlib.Path, output: Output) -> tuple[Media, list[str]]:
    """The input as it is read for a result at ``path``: with its alpha where the result can hold
    it, else laid on black, with a line that says so."""
    if not media.has_alpha:
        return media, []
    kind, extension = _holds(path, media), path.suffix.lower()
    kept, better = True, ""
    if kind == "image":
        kept, better = holds_alpha(path), ".png and .webp"
    elif kind == "video":
        kept = keeps_alpha(_encoding(output), extension, 8 if media.bit_depth == 8 else 10)
        better = ".mov and .webm"
    if kept:
        return dataclasses.replace(media, keep_alpha=True), []
    where = f"{output.codec} in {extension}" if kind == "video" and output.codec else extension
    line = f"alpha is left out, with transparent pixels laid on black: {where} cannot hold it, "
    line += f"{better} can"
    return media, [line]


def check_output(
    path: pathlib.Path, media: Media, size: tuple[int, int], output: Output, overwrite: bool
) -> list[str]:
    """What the result of ``media`` at ``path`` will not have as the input has it, a line each.

    Takes what ``open_writer`` takes. Raises the UserError that writing would end in: the header of
    a video is written to find out.
    """
    try:
        same = path.exists() and path.samefile(media.path)
    except OSError as error:  # the name is too long
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    if same:
        raise UserError(f"{path} is the input itself; name another output")
    kind = _holds(path, media)
    if kind == "frames":
        _check_folder_name(path, "frames")
        check_folder_output(path, overwrite=overwrite)
        return []
    # What no --overwrite mends comes first.
    if kind == "image":
        check_image_output(path, overwrite=True, bit_depth=media.bit_depth, size=size)
    elif media.frame_rate is None:
        raise UserError(f"cannot write {path}: a folder of frames has no frame rate; name a folder")
    else:
        check_video_output(path, overwrite=True)
    if path.is_file() and not overwrite:
        raise UserError(f"{path} exists: give --overwrite to replace it, or another --output")
    if kind == "image":
        return []
    writer = open_writer(path, media, size, output, overwrite)
    writer.check()
    return writer.notes


def open_writer(
    path: pathlib.Path,
    media: Media,
    size: tuple[int, int],
    output: Output,
    overwrite: bool,
) -> Writer:
    """Opens the writer for the result of ``media``.

    Args:
      path: of the file or folder, as ``check_output`` has checked it.
      media: the input, whose rate, colours, tracks and profile the result keeps.
      size: (height, width) of the frames in pixels.
      output: codec, quality and what becomes of the audio.
      overwrite: whether to replace what exists.
    """
    kind = _holds(path, media)
    if kind == "image":
        return ImageWriter(path, media, overwrite)
    if kind == "frames":
        return FrameFolderWriter(path, source=media, overwrite=overwrite)
    height, width = size
    return VideoWriter(
        path,
        height=height,
        width=width,
        source=media,
        encoding=_encoding(output),
        audio=output.audio,
        overwrite=overwrite,
    )


def can_be_segmented(
    path: pathlib.Path, media: Media, size: tuple[int, int], output: Output, overwrite: bool
) -> bool:
    """Whether a result can be written in segments: a folder of frames, and nearly any video."""
    kind = _holds(path, media)
    if kind != "video":
        return kind == "frames"
    writer = open_writer(path, media, size, output, overwrite)
    return isinstance(writer, VideoWriter) and writer.can_be_joined


def open_segment_writer(
    path: pathlib.Path,
    media: Media,
    size: tuple[int, int],
    output: Output,
    overwrite: bool,
    first: int,
    packets: pathlib.Path,
    frames: pathlib.Path,
) -> Writer:
    """Opens the writer for a segment of a result.

    Args:
      path, media, size, output, overwrite: as of ``open_writer``, of the whole.
      first: index of the first frame of the segment.
      packets: the file for a segment of a video.
      frames: the folder for a segment of a folder of frames.
    """
    if _holds(path, media) == "frames":
        return FrameFolderWriter(path, source=media.part(first), overwrite=overwrite, into=frames)
    return SegmentWriter(
        packets, first, path, media,
        height=size[0], width=size[1], encoding=_encoding(output), audio="none",
        overwrite=overwrite,
    )  # fmt: skip


def _encoding(output: Output) -> Encoding:
    return Encoding(
        codec=output.codec or None,
        crf=None if output.crf < 0 else output.crf,
        pixel_format=output.pixel_format or None,
    )
