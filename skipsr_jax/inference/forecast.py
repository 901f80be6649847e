"""Foresees what a run takes: from the checkpoint's metadata, and from earlier runs on this machine.

    found = forecast(model, settings, (frames, (height, width)), speed=read_speed(folder, model))

Time is the operations of the networks over the operations per second that an earlier run of the
same networks reached, and what that run took besides. ``write_speed`` notes both beside the
compiled programs. Without such a note the device's usual rate stands in for it.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np

from skipsr_jax.files import new_file
from skipsr_jax.geometry import token_grid
from skipsr_jax.inference.bucket_choice import device_flops
from skipsr_jax.inference.cost import Clip, MemoryNeed, memory_need
from skipsr_jax.inference.model import Model
from skipsr_jax.inference.program_cache import Counts
from skipsr_jax.inference.program_keys import digest
from skipsr_jax.inference.programs import description
from skipsr_jax.inference.settings import Chunk, Settings
from skipsr_jax.inference.slot_choice import FLOPS_PER_BLOCK, flops_per_slot
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import bucket_with_window_capacity
from skipsr_jax.tokens.superblocks import SUPERBLOCK

SUFFIX = ".speed"
COMPILE_SECONDS = 60.0
"""About what the programs of a first run take on a device on which none was measured."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a run took.

    Attributes:
      start: seconds from the start of the program to the first clip, without programs.
      programs: seconds that were waited for programs that had to be compiled.
      rate: operations per second, from the first frame that is read to the last that is written.
    """

    start: float
    programs: float
    rate: float


class Stopwatch:
    """Times the clips of a run, apart from what is waited for programs.

    Args:
      started: ``time.perf_counter()`` when the program started.
    """

    def __init__(self, started: float):
        self._started, self._start = started, 0.0
        self._seconds = self._operations = 0.0

    @contextlib.contextmanager
    def clip(self, counts: Counts) -> Iterator[None]:
        """Times the clip inside. ``counts``: of the cache of programs."""
        began, waited = time.perf_counter(), counts.waited_seconds
        if not self._seconds:
            self._start = max(0.0, began - self._started - waited)
        yield
        waited = counts.waited_seconds - waited
        self._seconds += max(0.0, time.perf_counter() - began - waited)

    def done(self, model: Model, settings: Settings, clip: Clip) -> None:
        """Notes which clip was timed."""
        self._operations += operations(model, settings, clip)

    def speed(self, counts: Counts) -> Speed:
        """The speed of all clips so far."""
        programs = counts.waited_seconds if counts.compiled else 0.0
        return Speed(self._start, programs, self._operations / max(self._seconds, 1e-3))


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a clip will take if every patch is kept.

    Attributes:
      chunks: into which it is cut.
      bucket: of the transformer, for the largest chunk.
      memory: at the peak.
      seconds: of its frames, without the start of the program.
      start: seconds before its first frame, for the first clip of a run.
    """

    chunks: int
    bucket: Bucket
    memory: MemoryNeed
    seconds: float
    start: float


def chunk_lengths(frames: int, chunk: Chunk) -> list[int]:
    """The frames of each chunk of a clip, those that it shares with the one before included."""
    lengths, step = [min(frames, chunk.frames)], chunk.frames - chunk.overlap
    left = frames - lengths[0]
    while left > 0:
        lengths.append(chunk.overlap + min(left, step))
        left -= step
    return lengths


def operations(model: Model, settings: Settings, clip: Clip) -> float:
    """The floating-point operations of a clip that keeps every patch."""
    frames, target = clip
    of_slots = sum(flops_per_slot(direction, model) for direction in FLOPS_PER_BLOCK["full"])
    blocks = SUPERBLOCK**2 if model.coder_kind == "light" else 1
    calls = settings.sampler.steps * (1 if settings.sampler.guidance == 1 else 2)
    weights = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(model.params["dit"]))
    of_patch = of_slots / blocks + 2.0 * weights * calls
    lengths = chunk_lengths(frames, settings.chunk)
    return of_patch * sum(math.prod(token_grid(length, *target)) for length in lengths)


def forecast(
    model: Model, settings: Settings, clip: Clip, speed: Speed | None, compiled: bool
) -> Forecast:
    """What a clip takes.

    Args:
      model: with parameters or with their shapes.
      settings: of the run.
      clip: frames and the (height, width) of the output.
      speed: of an earlier run of these networks here; None: there was none.
      compiled: whether its programs are kept already.
    """
    frames, target = clip
    device = jax.local_devices()[0] if model.mesh is None else model.mesh.devices.flat[0]
    if speed is None:
        speed = Speed(0.0, COMPILE_SECONDS, model.devices * device_flops(device.device_kind))
    lengths = chunk_lengths(frames, settings.chunk)
    grid = np.ones(token_grid(lengths[0], *target), bool)
    return Forecast(
        chunks=len(lengths),
        bucket=bucket_with_window_capacity([grid], model.devices),
        memory=memory_need(model, settings, clip, compiled),
        seconds=operations(model, settings, clip) / speed.rate,
        start=speed.start + (0.0 if compiled else speed.programs),
    )


def _path(folder: str | os.PathLike, model: Model, settings: Settings) -> pathlib.Path:
    device = jax.local_devices()[0]
    facts = description(model), device.device_kind, str(model.devices), str(settings.sampler)
    cores = str(os.cpu_count()) if device.platform == "cpu" else ""
    return pathlib.Path(folder) / (digest(*facts, cores) + SUFFIX)


def read_speed(folder: str | os.PathLike | None, model: Model, settings: Settings) -> Speed | None:
    """What an earlier run of these networks took on this machine; None where none is noted."""
    if folder is None:
        return None
    try:
        found = json.loads(_path(folder, model, settings).read_text())
        speed = Speed(**{name: float(found[name]) for name in ("start", "programs", "rate")})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return speed if speed.rate > 0 else None


def write_speed(
    folder: str | os.PathLike | None, model: Model, settings: Settings, speed: Speed
) -> None:
    """Notes what a run took. A run that compiled nothing leaves the earlier note of that."""
    if folder is None or speed.rate <= 0:
        return
    before = read_speed(folder, model, settings)
    if before is not None and speed.programs < before.programs:
        speed = dataclasses.replace(speed, programs=before.programs)
    try:
        if not pathlib.Path(folder).is_dir():
            return
        with new_file(_path(folder, model, settings), overwrite=True) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(speed)))
    except OSError:  # a full disk or a folder of others: a note that only helps to foresee
        return
