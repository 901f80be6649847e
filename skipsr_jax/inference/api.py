"""The Python API: an ``Upscaler`` holds a model and upscales streams of frames.

    from skipsr_jax import Upscaler

    up = Upscaler("tiny", mask={"source": "input"}, seed=1)
    for frame, keep in up.stream(frames, scale=4):
        ...
    video = up.upscale(array, height=1080)

The command line is its first user: what infer.py writes comes from ``stream_codes``, as do the
frames of ``stream``.
"""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from skipsr_jax.commandline import read_config
from skipsr_jax.config import from_config
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import padded_size, token_grid
from skipsr_jax.inference.background import prefetch
from skipsr_jax.inference.boundaries import Boundaries
from skipsr_jax.inference.cost import largest_need
from skipsr_jax.inference.forecast import missing_programs
from skipsr_jax.inference.model import chosen_mask, mask_origin, open_model
from skipsr_jax.inference.pipeline import OutputFormat, OutputFrame, upscale_frames
from skipsr_jax.inference.program_cache import ProgramCache
from skipsr_jax.inference.programs import Programs, description
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Settings, Size
from skipsr_jax.inference.target_size import target_size
from skipsr_jax.media.reader import open_media
from skipsr_jax.parallel.mesh import mesh_of
from skipsr_jax.types import HostArray

PREFETCHED = 8
"""Frames that are read, and frames that are made, before they are asked for."""
FRAME_TYPES = (np.uint8, np.uint16)


def settings_from(config: str | os.PathLike | Settings, overrides: Mapping[str, Any]) -> Settings:
    """The settings of a config with some entries replaced.

    Args:
      config: the name of a config that comes with the package, the path of a Python file, or
        settings.
      overrides: names of entries and their values; the entries of a section stand in a mapping of
        their own.

    Raises:
      UserError: there is no such config, or a key is unknown or its value wrong; the message names
        the key and, if it is unknown, similar ones.
    """
    if isinstance(config, Settings):
        values = dataclasses.asdict(config)
    else:
        values = read_config(os.fspath(config), trains=False).to_dict()
    return from_config(Settings, _replaced(values, overrides), prefix="")


def _replaced(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` with ``overrides`` in their place, mappings merged section by section."""
    merged = dict(values)
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            section = merged.get(key, {})
            value = _replaced(section if isinstance(section, Mapping) else {}, value)
        merged[key] = value
    return merged


class Upscaler:
    """Upscales videos and pictures with one model, which it loads when it is created.

    Programs are compiled when they are first needed and kept, so use one ``Upscaler`` for all
    clips.

    Args:
      config: the name of a config that comes with the package ("tiny", "seedvr2_3b", ...), the path
        of a Python file with ``get_config()``, or finished ``Settings``.
      checkpoint: the folder or URL of the model, if it is not the config's.
      adapter: the folder or URL of an adapter (LoRA), which is merged into the transformer when it
        is loaded: the workdir of a training run, or what export wrote of one.
      cache: a folder in which compiled programs are kept between processes; None: they are not.
      clips: clips to come, as ``reserve`` takes them. Their programs are compiled or loaded while
        the model is read.
      overrides: entries of the config to replace, by name. The entries of a section stand in a
        mapping: ``Upscaler("tiny", seed=1, mask={"source": "input", "dilate": 1})``.
        ``skipsr_jax.inference.settings.Settings`` documents all entries.

    Attributes:
      settings: what the config and the overrides come to, with a mask source in place of "auto".
      mask_origin: where masks come from, in words.
      memory: what the clips that were reserved need; None: none were.
      programs: the model and its compiled programs.

    Raises:
      UserError (a ValueError): there is no such config or checkpoint, an entry is unknown or its
        value wrong, or the checkpoint lacks a network that the settings need.
    """

    def __init__(
        self,
        config: str | os.PathLike | Settings = "tiny",
        *,
        checkpoint: str | os.PathLike | None = None,
        adapter: str | os.PathLike | None = None,
        cache: str | os.PathLike | None = None,
        clips: Iterable[tuple[int, tuple[int, int]]] = (),
        **overrides: Any,
    ):
        if checkpoint is not None:
            overrides["checkpoint"] = os.fspath(checkpoint)
        if adapter is not None:
            overrides["adapter"] = os.fspath(adapter)
        settings = settings_from(config, overrides)
        model = open_model(
            settings.checkpoint,
            settings.dtype,
            settings.mask,
            mesh_of(settings.mesh),
            settings.coder,
            precision=settings.precision,
            coder_precision=settings.coder_precision,
            adapter=settings.adapter,
            sharpness=settings.sharpness,
        )
        mask = chosen_mask(settings.mask, model)
        self.settings = dataclasses.replace(settings, mask=mask)
        self.mask_origin = mask_origin(settings.mask, model)
        self.programs = Programs(model, ProgramCache(cache))
        self.reserve(clips)
        try:
            model.load()
        except UserError:
            self.programs.cache.cancel()
            raise

    def stream(
        self,
        frames: Iterable[HostArray],
        *,
        scale: float | int | None = None,
        height: int | None = None,
        width: int | None = None,
        report: Report | None = None,
    ) -> Generator[tuple[HostArray, HostArray], None, None]:
        """Upscales a clip of any length in bounded memory.

        Frames are taken from ``frames``, and results made, in threads of their own, a few before
        they are asked for. The results of a chunk (``chunk.frames`` of the settings) begin to come
        when the frames of the chunk and one more have been taken. At most ``max_frames`` of the
        settings are taken, unless it is 0. Leaving the loop early, or closing the generator, ends
        the threads.

        Args:
          frames: RGB frames (h, w, 3), all of one size, uint8 (0..255) or uint16 (0..65535), sRGB
            or as the video encodes it. Any iterable: a list, an array (f, h, w, 3), a generator.
          scale: size of the output in units of the input's, 0.25 to 16. Without ``scale``,
            ``height`` and ``width`` the settings' ``size`` decides.
          height, width: size of the output in pixels, 16 to 16384. One of them: the other keeps the
            aspect ratio. Both: exactly these. Not together with ``scale``.
          report: where to note how it goes; a ``Report`` of its own for each clip.

        Returns:
          A generator of pairs (frame, keep), one for each input frame, in order: the frame
          (height, width, 3) in the input's dtype, and the keep mask of its patches of 16 x 16
          output pixels, bool (rows, columns), true where the transformer computed the patch. At the
          right and at the bottom the last patches may reach beyond the frame.

        Raises:
          UserError (a ValueError): a size out of range, at once; while frames are taken: a frame of
            another shape or dtype than documented or than the first, or settings that the model or
            the device cannot satisfy.
        """
        size = self._size(scale, height, width)
        return self._stream_rgb(frames, size, Report() if report is None else report)

    def _stream_rgb(
        self, frames: Iterable[HostArray], size: Size, report: Report
    ) -> Generator[tuple[HostArray, HostArray], None, None]:
        source = iter(frames)
        first = next(source, None)
        if first is None:
            return
        bits = 8 * np.asarray(first).dtype.itemsize
        results = self.stream_codes(itertools.chain([first], source), [bits], size, report)
        with contextlib.closing(results):
            for [(frame,)], keep in results:
                yield frame, keep

    def upscale(
        self,
        array: HostArray,
        *,
        scale: float | int | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> HostArray:
        """Upscales a clip or a picture that is in memory.

        Args:
          array: (f, h, w, 3) or (h, w, 3), uint8 or uint16, RGB.
          scale, height, width: as of ``stream``.

        Returns:
          The frames at the target size, (f, height, width, 3) or (height, width, 3), in the input's
          dtype.

        Raises:
          UserError (a ValueError): an array of another shape or dtype, or without frames; else as
            ``stream``.
        """
        array = np.asarray(array)
        if array.ndim not in (3, 4) or len(array) == 0:
            raise UserError(
                f"the array has shape {array.shape}: it must be (frames, height, width, 3) with at "
                "least one frame, or (height, width, 3)"
            )
        frames = array if array.ndim == 4 else array[None]
        pairs = self.stream(frames, scale=scale, height=height, width=width)
        made = np.stack([frame for frame, _ in pairs])
        return made if array.ndim == 4 else made[0]

    def _size(self, scale: float | int | None, height: int | None, width: int | None) -> Size:
        if scale is None and height is None and width is None:
            return self.settings.size
        if scale is not None and not (height is None and width is None):
            raise UserError("give a scale, or a height and a width, not both")
        sizes = {"factor": scale, "height": height, "width": width}
        wanted = {name: value for name, value in sizes.items() if value is not None}
        return from_config(Size, wanted, prefix="")

    def stream_codes(
        self,
        frames: Iterable[HostArray],
        formats: Sequence[OutputFormat],
        size: Size,
        report: Report,
        first: int = 0,
        boundaries: Boundaries | None = None,
    ) -> Generator[OutputFrame, None, None]:
        """As ``stream``, with frames as the codes of a file, converted on the device.

        Args:
          frames: as of ``stream``.
          formats: what is made of each frame: a ``YuvFormat``, or 8 or 16 for RGB of so many bits.
          size: of the output.
          report: where to note how it goes.
          first: the frame of the reference of an oracle mask that the first of ``frames`` is.
          boundaries: where to go on from, and where to keep what a later run needs to go on;
            ``frames`` begin there.

        Returns:
          A generator of pairs (codes, keep). ``codes`` has an entry for each format: three planes
          (luma, blue difference, red difference), or one array (height, width, 3).
        """
        settings = self.settings
        report.mask_source = self.mask_origin
        limit = settings.max_frames or None
        taken = _timed(itertools.islice(_checked(frames), limit), report)
        with contextlib.closing(prefetch(taken, PREFETCHED)) as inputs:
            beginning = next(inputs, None)
            if beginning is None:
                return
            target = target_size(*beginning.shape[:2], size)
            reference = None
            if settings.mask.reference:
                truth = open_media(settings.mask.reference).part(first)
                reference = itertools.islice(truth.frames(), limit)
            results = upscale_frames(
                itertools.chain([beginning], inputs), target, self.programs, settings, report,
                reference, formats, boundaries,
            )  # fmt: skip
            with contextlib.closing(prefetch(results, PREFETCHED)) as ready:
                for result in ready:
                    report.frames += 1
                    yield result
            self.programs.cache.remember()

    def reserve(self, clips: Iterable[tuple[int, tuple[int, int]]]) -> None:
        """States clips to come, so that one program of the transformer serves them all.

        That program, and the autoencoder's for the first clip, begin to be compiled or loaded.

        Args:
          clips: the number of frames and the (height, width) of the output of each, in order.

        Raises:
          UserError: a clip needs more memory than the device has.
        """
        longest, settings, clips = self.settings.chunk.frames, self.settings, list(clips)
        chunks = [(min(frames, longest), target) for frames, target in clips]
        model, cache = self.programs.model, self.programs.cache
        missing = [missing_programs(model, settings, each, cache.folder) for each in set(chunks)]
        self.memory = largest_need(model, settings, clips, max(missing, default=1.0))
        if chunks:
            cache.preload(settings, description(model), chunks[0])
        self.programs.buckets.reserve(token_grid(count, *target) for count, target in set(chunks))
        for count, target in chunks[:1]:
            coder, size = self.programs.coder, padded_size(*target)
            plan = coder.dense_plan(size, settings.slice_latents, settings.vae_memory_gib)
            coder.prepare(count, size, plan)
        self.programs.prepare_transformer()


def _checked(frames: Iterable[HostArray]) -> Iterator[HostArray]:
    """The frames, if all of them are frames and like the first. Raises UserError."""
    first = None
    for number, frame in enumerate(frames):
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise UserError(
                f"frame {number} has shape {frame.shape}: it must be (height, width, 3)"
            )
        if frame.dtype not in FRAME_TYPES:
            raise UserError(
                f"frame {number} has dtype {frame.dtype}: it must be uint8 (0..255) or uint16 "
                "(0..65535)"
            )
        first = frame if first is None else first
        if (frame.shape, frame.dtype) != (first.shape, first.dtype):
            raise UserError(
                f"frame {number} is {frame.dtype}{frame.shape} and the first one is "
                f"{first.dtype}{first.shape}: all frames of a clip must be alike"
            )
        yield frame


def _timed(frames: Iterator[HostArray], report: Report) -> Iterator[HostArray]:
    """The frames, the taking of which is counted as reading."""
    while True:
        with report.stage("read"):
            frame = next(frames, None)
        if frame is None:
            return
        yield frame
