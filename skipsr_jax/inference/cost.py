"""Estimates the memory that a run needs, before anything is loaded or compiled.

    model = described(settings)                            # shapes alone
    need = memory_need(model, settings, (33, (720, 1280)))
    need = largest_need(model, settings, clips)            # UserError where one cannot fit

What is in use together at the peak is the parameters, the frames that are in flight, and the stage
that takes the most: the autoencoder on a slice, the transformer on a chunk, or the mask predictor.
Everything is counted from shapes, for the chunk that keeps every patch. On a CPU the process itself
and its compiler count as well.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.geometry import PATCH_AREA, TIME_FACTOR, padded_count, padded_size, token_grid
from skipsr_jax.host_memory import device_limit, host_limit
from skipsr_jax.inference.coder import light_slice
from skipsr_jax.inference.model import Model, open_model
from skipsr_jax.inference.pipeline import FRAMES_IN_FLIGHT
from skipsr_jax.inference.settings import Settings
from skipsr_jax.models.dit.memory import activation_bytes
from skipsr_jax.models.light_coder.memory import param_bytes, slice_bytes
from skipsr_jax.models.params import nbytes, to_dict
from skipsr_jax.models.predictor import PixelMaskPredictor
from skipsr_jax.models.predictor.pixel_energies import MIRROR_AXES
from skipsr_jax.models.vae.memory import estimate_memory
from skipsr_jax.parallel.mesh import mesh_of
from skipsr_jax.parallel.rules import bytes_per_device
from skipsr_jax.tokens.plan import bucket_with_window_capacity

_GIB = 2**30
_FLOAT32 = 4
_ARRAYS_OF_FRAMES = 4
"""Of a frame that is decoded: the upscaled input in [-1, 1] and in [0, 1], what comes out of the
decoder, and the result."""
_LATENTS = 6
"""Latents of the chunk: three of noise, of the input, refined, and divided into slices."""
PROCESS_BYTES = 54 * _GIB // 100
"""Of the process on a CPU, with its libraries and loaded programs."""
COMPILER_BYTES = {"full": 75 * _GIB // 100, "light": 36 * _GIB // 100}
"""By the coder, of XLA's compiler and what it leaves behind: what processes of the tiny model that
compiled all of their programs took more than ones that loaded them."""
_CPU_COPIES = {"full": 2.0, "light": 1.0, "dit": 1.35, "predictor": 2.5}
"""On a CPU, what programs take over their estimates, which are made for accelerators: convolutions
in time and attention copy their operands there. The light coder runs frame by frame, and takes what
its estimate says. The full coder's factor and the numbers above are fitted to peaks of the
tiny model (docs/performance.md). That of the transformer is what XLA states of its program
(``memory_analysis``), and the predictor's the memory that it alone took for 33 frames of 720p."""
_FRAMES_OF_FILES = 90
"""Frames of 8 bits on the host: 8 that are read before they are asked for, 8 that are ready, those
on their way, and about 64 that an encoder of video keeps to look ahead."""
_NAMES = {"coder": "the autoencoder", "dit": "the transformer", "predictor": "the mask predictor"}

SHORTER_CHUNKS = (65, 33, 17)
"""Frames of a chunk that are proposed where longer ones do not fit."""

LESS_MEMORY = (
    "take a smaller size (config.size), shorter chunks (config.chunk.frames), spatial tiles "
    "(config.vae_memory_gib), config.coder=light or more devices (config.mesh.seq)"
)
"""What to change where the memory runs out all the same."""

Clip = tuple[int, tuple[int, int]]
"""Frames, and the (height, width) of the output."""


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """Bytes on one device, or on the host where that is the device.

    Attributes:
      platform: "cpu", "gpu" or "tpu".
      held: in use all the time, by name.
      stages: what each stage takes besides, by name; one runs at a time.
    """

    platform: str
    held: dict[str, int]
    stages: dict[str, int]

    @property
    def largest(self) -> str:
        """The stage that takes the most."""
        return max(self.stages, key=self.stages.__getitem__)

    @property
    def total(self) -> int:
        """The peak."""
        return sum(self.held.values()) + self.stages[self.largest]

    def __str__(self) -> str:
        parts = self.held | {self.largest: self.stages[self.largest]}
        sizes = ((name, size / _GIB) for name, size in parts.items())
        named = ", ".join(f"{name} {gib:.1f}" for name, gib in sizes if gib >= 0.05)
        return f"about {self.total / _GIB:.1f} GiB on the {self.platform}: {named}"


def memory_limit(model: Model) -> int | None:
    """The bytes that a device of the model may hold; None where it does not say.

    On a CPU: what this process holds, and what is free on the host and in its control groups.
    """
    return device_limit(model.device)


def memory_need(model: Model, settings: Settings, clip: Clip, missing: float = 1.0) -> MemoryNeed:
    """The memory that a clip needs.

    Args:
      model: with parameters or with their shapes.
      settings: of the run.
      clip: what is upscaled; of longer ones than a chunk the length does not matter.
      missing: how many of the programs are compiled, 0 to 1; the others are loaded from a cache.
    """
    frames, target = min(clip[0], settings.chunk.frames), clip[1]
    size, devices = padded_size(*target), model.devices
    held = {
        f"parameters of {_NAMES[part]}": _bytes(model.params[part], model)
        for part in _NAMES
        if part in model.params
    }
    grid, frame = token_grid(frames, *target), math.prod(size) * 3 * _FLOAT32
    channels = model.coder.config.latent_channels
    latent = math.prod(grid) * PATCH_AREA * channels * _FLOAT32
    shared = settings.chunk.overlap if clip[0] > frames else 0  # with the chunk after it
    held["frames and latents"] = shared * frame + _LATENTS * latent
    bucket = bucket_with_window_capacity([np.ones(grid, bool)], devices)
    rows = bucket.tokens + bucket.windows * model.params["text"]["positive"].shape[0]
    latents, coding = _coding(model, settings, frames, size, sum(held.values()))
    platform = _platform(model)
    in_flight = min(padded_count(frames), _frames_in_flight(latents, platform)) * frame // devices
    refining = activation_bytes(
        model.dit.config, bucket.tokens // devices, rows // devices,
        np.dtype(model.dit.dtype).itemsize,
    )  # fmt: skip
    if platform == "cpu":
        of_process = {
            "the process": PROCESS_BYTES,
            "the compiler": int(missing * COMPILER_BYTES[model.coder_kind]),
            "frames of files": _of_files(clip),
        }
        held = of_process | held
        refining = int(_CPU_COPIES["dit"] * refining)
        coding = int(_CPU_COPIES[model.coder_kind] * coding)
    stages = {
        "the mask predictor at work": _predicting(model, grid, platform) // devices,
        "the transformer at work": refining + in_flight,
        "the autoencoder at work": coding // devices + _ARRAYS_OF_FRAMES * in_flight,
    }
    return MemoryNeed(platform, held, stages)


def largest_need(
    model: Model, settings: Settings, clips: Iterable[Clip], missing: float = 1.0
) -> MemoryNeed | None:
    """What the clip needs that needs the most; None without clips.

    ``missing``: as of ``memory_need``, for all clips.

    Raises UserError where a clip cannot fit, with the entries of the config that make it fit.
    """
    needs = [(memory_need(model, settings, clip, missing), clip) for clip in dict.fromkeys(clips)]
    if not needs:
        return None
    for clip in dict.fromkeys(clip for _, clip in needs):
        _check_host(model, clip)
    need, clip = max(needs, key=lambda pair: pair[0].total)
    limit = memory_limit(model)
    if limit is not None and need.total > limit:
        raise UserError(_refusal(need, limit, model, settings, clip))
    return need


def _of_files(clip: Clip) -> int:
    """Bytes of the frames that the host holds."""
    return min(clip[0], _FRAMES_OF_FILES) * math.prod(clip[1]) * 3


def _check_host(model: Model, clip: Clip) -> None:
    """Raises UserError where a clip's frames do not fit on the host beside a device."""
    compiler = COMPILER_BYTES[model.coder_kind]
    limit, need = host_limit(), PROCESS_BYTES + compiler + _of_files(clip)
    if _platform(model) != "cpu" and limit is not None and need > limit:
        height, width = clip[1]
        raise UserError(
            f"frames of {width}x{height} need about {need / _GIB:.1f} GiB on the host; there are "
            f"{limit / _GIB:.1f} GiB; take a smaller size (config.size)"
        )


def _refusal(need: MemoryNeed, limit: int, model: Model, settings: Settings, clip: Clip) -> str:
    frames, (height, width) = clip
    helps = [
        f"{keys} needs {other.total / _GIB:.1f}"
        for keys, other in alternatives(model, settings, clip)
        if other.total <= limit
    ]
    remedy = (
        f": {', '.join(helps)}"
        if helps
        else "; take a smaller size (config.size), shorter chunks (config.chunk.frames) or more "
        "devices (config.mesh.seq)"
    )
    return (
        f"{width}x{height}, {frames} frame{'' if frames == 1 else 's'}, needs {need}; there are "
        f"{limit / _GIB:.1f} GiB{remedy}"
    )


def alternatives(model: Model, settings: Settings, clip: Clip) -> Iterator[tuple[str, MemoryNeed]]:
    """Other entries of the config that may take less memory, and what they need."""
    changes = [{"coder": "light"}, {"precision": "fp8"}, {"precision": "int8"}]
    changes += [{"coder_precision": "fp8"}]
    changes += [{"slice_latents": 1}] if settings.slice_latents != 1 else []
    changes += [{"vae_memory_gib": 0.0}] if settings.vae_memory_gib else []
    for entry in changes:
        ((key, value),) = entry.items()
        other = dataclasses.replace(settings, **entry)
        if getattr(settings, key) == value:
            continue
        try:
            found = described(other)
        except UserError:  # the checkpoint or the device does not have it
            continue
        yield f"config.{key}={value}", memory_need(found, other, clip)
    for frames in SHORTER_CHUNKS:
        if frames < min(clip[0], settings.chunk.frames):
            overlap = min(settings.chunk.overlap, frames // 2)
            chunk = dataclasses.replace(settings.chunk, frames=frames, overlap=overlap)
            other = dataclasses.replace(settings, chunk=chunk)
            yield f"config.chunk.frames={frames}", memory_need(model, other, clip)


def described(settings: Settings) -> Model:
    """The model of these settings with shapes instead of parameters."""
    return open_model(
        settings.checkpoint, settings.dtype, settings.mask, mesh_of(settings.mesh), settings.coder,
        precision=settings.precision, coder_precision=settings.coder_precision,
        adapter=settings.adapter, sharpness=settings.sharpness,
    )  # fmt: skip


def _platform(model: Model) -> str:
    return model.device.platform


def _bytes(params: dict, model: Model) -> int:
    if model.mesh is not None:
        return bytes_per_device(params, model.mesh)
    return nbytes(params)


def _predicting(model: Model, grid: tuple[int, int, int], platform: str) -> int:
    """What the mask predictor takes besides its parameters: its input and two hidden layers."""
    if model.predictor is None:
        return 0
    in_pixels = isinstance(model.predictor, PixelMaskPredictor)
    network = model.predictor.on_grid if in_pixels else model.predictor
    *_, features, width = network.layers[0].kernel.shape
    images = len(MIRROR_AXES) if in_pixels else 1
    taken = _FLOAT32 * images * math.prod(grid) * (PATCH_AREA * features + 2 * width)
    return int(taken * (_CPU_COPIES["predictor"] if platform == "cpu" else 1))


def _frames_in_flight(latents: int, platform: str) -> int:
    """Frames of the slice at work, and of those that the host asks for meanwhile.

    On a CPU the arrays of the latter take no memory before they are written.
    """
    of_slice = TIME_FACTOR * latents
    return of_slice * (1 if platform == "cpu" else 1 + -(-FRAMES_IN_FLIGHT // of_slice))


def _coding(
    model: Model, settings: Settings, frames: int, size: tuple[int, int], held: int
) -> tuple[int, int]:
    """Latent frames of a slice, and what the autoencoder takes besides its parameters.

    Slices and spatial tiles are those that a run would choose to fit the memory.
    """
    budget, module = int(settings.vae_memory_gib * _GIB), model.coder
    params = _bytes(to_dict(module), model)
    if model.devices > 1:
        budget = 0
    elif not budget and _platform(model) != "cpu":
        budget = max(0, (memory_limit(model) or 0) - held + params)
    if model.coder_kind == "light":
        latents = light_slice(module, size, settings.slice_latents, budget)
        return latents, slice_bytes(module, *size, latents) - param_bytes(module)
    latents = settings.slice_latents or 1
    estimate = estimate_memory(module, *size, latents, picture=frames == 1)
    tiles = estimate.tiles_within(max(budget, estimate.smallest)) if budget else 1
    return latents, estimate.by_tiles[tiles] - estimate.params
