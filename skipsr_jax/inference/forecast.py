"""Foresees what a run takes: from the checkpoint's metadata, and from earlier runs on this machine.

    speed = read_speed(folder, model, settings)
    missing = missing_programs(model, settings, clips[0], folder)
    found = forecast(model, settings, clips[0], speed, missing)

Time is the operations of the networks over the operations per second that an earlier run of the
same networks reached, and what that run took besides: to start, and for programs. The rate counts
the seconds for which the slowest part of the run (reading, the device or writing) was busy, and
whatever passed beyond them counts for the programs, because the device works while the host waits
for some of them. ``write_speed`` notes it beside the compiled programs. Without such a note the
usual rate of the device stands in for it.
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
from skipsr_jax.geometry import TIME_FACTOR, padded_size, token_grid
from skipsr_jax.inference.bucket_choice import device_flops
from skipsr_jax.inference.cost import Clip
from skipsr_jax.inference.model import Model, chosen_mask
from skipsr_jax.inference.program_cache import Counts, ProgramCache
from skipsr_jax.inference.program_keys import digest
from skipsr_jax.inference.programs import Programs, description
from skipsr_jax.inference.settings import Chunk, Settings
from skipsr_jax.inference.slot_choice import FLOPS_PER_BLOCK, flops_per_slot
from skipsr_jax.models.params import nbytes
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import bucket_with_window_capacity
from skipsr_jax.tokens.superblocks import SUPERBLOCK

SUFFIX = ".speed"
START_SECONDS = 2.5
"""About what a run takes from its start to its first clip, where none was measured: to start
Python, to import the libraries, and to load a small model."""
LOADED_BYTES = 5e8
"""About the bytes of parameters that a run loads a second: 3B from a disk onto an H200, while
programs are compiled beside it (6.8 GiB in 17 s with the start)."""
LONGEST_IMPORT = 15.0
"""Seconds of processor time. It is 1 to 3 s with warm files."""
CPU_FLOPS = {"full": 4.5e10, "light": 2.2e10}
"""By the coder, operations per second that a core reaches where no run was measured: those of the
tiny model on two cores, by processor time (light, 704x576 to 1280x960: 2.1e10 to 2.4e10; full,
704x576 and 1280x720: 5.4e10 and 4.1e10)."""
PROGRAM_SECONDS, CORE_SECONDS = 30.0, {"full": 30.0, "light": 18.0}
"""About what the programs of a first run take where none was measured: on accelerators, whose
compilers try kernels out (an H200 with 16 cores, beyond loading: 18 to 20 s of 3B with the full
coder, 20 to 35 s of the tiny model); and on a CPU for one core, by the coder, of the tiny model."""
OF_SIZE = 0.57
"""The fraction of this for programs that depend on the size of the output alone: those of the coder
and of the composited output. The others depend on the number of frames as well. Of the tiny model's
programs at 704x576, by their processor time."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """What a run took.

    Attributes:
      start: seconds from the start of the program to the first clip, without programs.
      programs: seconds that a run takes longer that has to compile all of its programs; 0 where
        none did.
      rate: operations per second of the slowest part, while it is busy.
    """

    start: float
    programs: float
    rate: float


def process_start() -> float:
    """About ``time.perf_counter()`` when the process started: to import modules is to compute.

    In a process that has computed for longer something else came first, and now is the start.
    """
    computed = time.process_time()
    return time.perf_counter() - (computed if computed < LONGEST_IMPORT else 0.0)


class Stopwatch:
    """Times the clips of a run.

    Args:
      started: ``process_start()`` when the program began.
    """

    def __init__(self, started: float):
        self._started, self._first = started, None
        self._seconds = self._busy = self._operations = 0.0

    @contextlib.contextmanager
    def clip(self, counts: Counts) -> Iterator[None]:
        """Times the clip inside. ``counts``: of the cache of programs."""
        began = time.perf_counter()
        if self._first is None:
            self._first = began, counts.waited_seconds
        yield
        self._seconds += time.perf_counter() - began

    def done(self, model: Model, settings: Settings, clip: Clip, busy: float) -> None:
        """Notes which clip was timed, and for how many seconds its slowest part was busy."""
        self._operations += operations(model, settings, clip)
        self._busy += busy

    def speed(self, counts: Counts) -> Speed:
        """The speed of all clips so far."""
        began, waited = self._first or (self._started, 0.0)
        start = max(0.0, began - self._started - waited)
        beside, programs = max(0.0, self._seconds - self._busy), 0.0
        total = counts.compiled + counts.loaded
        if not counts.compiled:  # to fill the pipeline and to empty it
            start += beside
        elif 2 * counts.compiled >= total:  # else it is hard to say what all would have taken
            programs = (waited + beside) * total / counts.compiled
        return Speed(start, programs, self._operations / max(self._busy, 1e-3))


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What a clip will take if every patch is kept.

    Attributes:
      chunks: into which it is cut.
      bucket: of the transformer, for the largest chunk.
      seconds: of its frames, with programs that are there.
      programs: seconds for those that have to be compiled.
      start: seconds of the start of the program.
    """

    chunks: int
    bucket: Bucket
    seconds: float
    programs: float
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
    grids = [token_grid(length, *target) for length in chunk_lengths(frames, settings.chunk)]
    # The first latent frame of a chunk is one frame of pixels, the others are TIME_FACTOR.
    coded = sum((t - 1 + 1 / TIME_FACTOR) * r * q for t, r, q in grids)
    return of_slots / blocks * coded + 2.0 * weights * calls * sum(map(math.prod, grids))


def missing_programs(
    model: Model, settings: Settings, clip: Clip, folder: str | os.PathLike | None
) -> float:
    """How much of the programs a run of a clip has to compile, 0 to 1, as a fraction of their time.

    Args:
      model, settings, clip: as of ``forecast``.
      folder: of compiled programs; None: there is none.
    """
    cache, target = ProgramCache(folder), clip[1]
    run = dataclasses.replace(settings, mask=chosen_mask(settings.mask, model))
    chunk = (min(clip[0], settings.chunk.frames), target)
    if cache.has_list(run, description(model), chunk):
        return 0.0
    coder, size = Programs(model, cache).coder, padded_size(*target)
    plan = coder.dense_plan(size, settings.slice_latents, settings.vae_memory_gib)
    return 1 - OF_SIZE if coder.is_kept(size, plan) else 1.0


def _usual_speed(model: Model) -> Speed:
    """What stands in for a run that was measured."""
    device, start = model.device, START_SECONDS + nbytes(model.params) / LOADED_BYTES
    if device.platform == "cpu":
        cores = os.cpu_count() or 1
        kind = model.coder_kind
        return Speed(start, CORE_SECONDS[kind] / cores, cores * CPU_FLOPS[kind])
    rate = model.devices * device_flops(device.device_kind)
    return Speed(start, PROGRAM_SECONDS, rate)


def forecast(
    model: Model, settings: Settings, clip: Clip, speed: Speed | None, missing: float
) -> Forecast:
    """What a clip takes.

    Args:
      model: with parameters or with their shapes.
      settings: of the run.
      clip: frames and the (height, width) of the output.
      speed: of an earlier run of these networks here; None: there was none.
      missing: as ``missing_programs``.
    """
    frames, target = clip
    usual = _usual_speed(model)
    speed = speed or usual
    lengths = chunk_lengths(frames, settings.chunk)
    grid = np.ones(token_grid(lengths[0], *target), bool)
    return Forecast(
        chunks=len(lengths),
        bucket=bucket_with_window_capacity([grid], model.devices),
        seconds=operations(model, settings, clip) / speed.rate,
        programs=missing * (speed.programs or usual.programs),
        start=speed.start,
    )


def _path(folder: str | os.PathLike, model: Model, settings: Settings) -> pathlib.Path:
    device = model.device
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
    """Notes what a run took. One that compiled few programs leaves what is noted of them."""
    if folder is None or speed.rate <= 0:
        return
    before = read_speed(folder, model, settings)
    if before is not None and not speed.programs:
        speed = dataclasses.replace(speed, programs=before.programs)
    try:
        if not pathlib.Path(folder).is_dir():
            return
        with new_file(_path(folder, model, settings), overwrite=True) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(speed)))
    except OSError:  # a full disk or a folder of others: a note that only helps to foresee
        return
