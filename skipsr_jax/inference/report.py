"""Collects how the upscaling of one clip went: the one place for it, and the lines that say it."""

import contextlib
import dataclasses
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from skipsr_jax.inference.coding_plan import CodingPlan
from skipsr_jax.inference.device_clock import DeviceClock
from skipsr_jax.inference.program_cache import Counts, waited_by_this_thread
from skipsr_jax.tokens.buckets import Bucket

STAGES = (
    "read", "mask", "encode", "refine", "decode", "download", "write", "mask picture", "programs",
)  # fmt: skip
"""``encode``, ``refine`` and ``decode`` are the device's: ``encode`` begins with the upscaling, and
``decode`` ends with the colour fix and the conversion to the codes of the file. ``download`` is
what the host waited for finished frames, and ``programs`` what it waited until programs were
compiled or loaded; the other stages do not have those seconds."""
WORKERS = {
    "reading": ("read",),
    "the device": ("encode", "refine", "decode"),
    "writing": ("write",),
}
"""Who works at the same time as the others, with the stages of each."""
_PROGRESS = {"encode": 0.35, "refine": 0.15, "decode": 0.5}
"""How much of the progress each stage is; a guess at the fraction of time that it takes."""


class Report:
    """How the upscaling of one clip went.

    Args:
      progress: called with the name of a stage and the frames' worth of progress that it made: 0.0
        when it begins, and in sum the number of frames at the end. Threads call it.
      first: index of the first frame that this run makes; an earlier one made those before.

    Attributes:
      seconds: of each stage.
      frames: how many came out of this run.
      kept, patches: how many patches the transformer computed, of how many.
      mask_source: where the keep masks came from.
      coder: which autoencoder ran: "full" or "light".
      products: the precision of the transformer's products: fp8, int8 or a dtype.
      coder_products: that of the autoencoder's wide convolutions: fp8 or a dtype.
      adapter: which adapter was merged into the transformer; empty: none.
      sharpness: of the weights: 0 for the faithful ones.
      buckets: in how many chunks each bucket ran.
      attention: the attention implementations that ran; for each the faster ones that could not
        run, with reasons.
    """

    def __init__(
        self,
        progress: Callable[[str, float], None] = lambda stage, frames: None,
        first: int = 0,
    ):
        self.first = first
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.kept = self.patches = self.frames = 0
        self.mask_source = self.coder = self.adapter = ""
        self.products = self.coder_products = ""
        self.sharpness = 0.0
        self.buckets: dict[Bucket, int] = {}
        self.attention: dict[str, Mapping[str, str]] = {}
        self._coded: dict[str, tuple[int, int]] = {}
        self._progress = progress
        self._device = DeviceClock(self._finished)
        self._began = time.perf_counter()

    def watch(self, stage: str, result: Any, called: float, frames: float = 0.0) -> None:
        """Counts what the device does from now until ``result`` is ready towards a stage.

        Args:
          stage: "encode", "refine" or "decode".
          result: arrays on the device.
          called: ``now()`` before the call that makes them, in the same thread.
          frames: how many frames that no chunk had before are then done with the stage.
        """
        self._progress(stage, 0.0)
        self._device.watch(stage, result, called + waited_by_this_thread(), frames)

    @staticmethod
    def now() -> float:
        """The time in seconds, of a clock that pauses while this thread waits for a program.

        A moment of it, plus what the thread waits later, is when the device could begin.
        """
        return time.perf_counter() - waited_by_this_thread()

    @contextlib.contextmanager
    def waiting(self, counts: Counts) -> Iterator[None]:
        """Counts what is waited inside for the programs of a cache towards "programs"."""
        before = counts.waited_seconds
        try:
            yield
        finally:
            self.seconds["programs"] += counts.waited_seconds - before

    def _finished(self, stage: str, seconds: float, frames: float) -> None:
        self.seconds[stage] += seconds
        self._progress(stage, _PROGRESS[stage] * frames)

    def close(self) -> None:
        """Waits until all that was watched is counted."""
        self._device.close()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the seconds inside towards a stage, which a profile of the host shows by name.

        Those for which this thread waits for a program are left out.
        """
        self._progress(name, 0.0)
        began = self.now()
        try:
            with jax.profiler.TraceAnnotation(name):
                yield
        finally:
            self.seconds[name] += self.now() - began

    def chunk(
        self,
        keep: np.ndarray,
        bucket: Bucket | None,
        attention: tuple[str, Mapping[str, str]] | None,
        coding: Mapping[str, CodingPlan],
    ) -> None:
        """Notes what ran of a chunk.

        Args:
          keep: its mask, (t, r, q).
          bucket: in which the transformer ran; None: it did not run.
          attention: what ``Programs.attention`` says of the bucket.
          coding: the plans of "encode" and "decode".
        """
        self.kept += int(keep.sum())
        self.patches += keep.size
        if bucket is not None:
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1
        if attention is not None:
            self.attention.setdefault(*attention)
        for direction, plan in coding.items():
            ran, total = self._coded.get(direction, (0, 0))
            self._coded[direction] = (
                ran + plan.blocks_run(keep.shape),
                total + math.prod(keep.shape),
            )

    def counts(self) -> dict[str, Any]:
        """What was counted of the chunks so far, for JSON."""
        buckets = [[*dataclasses.astuple(bucket), n] for bucket, n in self.buckets.items()]
        return {"kept": self.kept, "patches": self.patches, "buckets": buckets,
                "coded": dict(self._coded)}  # fmt: skip

    def go_on_from(self, counts: Mapping[str, Any]) -> None:
        """Adds the chunks that an earlier run counted."""
        self.kept, self.patches = counts["kept"], counts["patches"]
        self.buckets = {Bucket(tokens, windows): n for tokens, windows, n in counts["buckets"]}
        self._coded = {name: (ran, total) for name, (ran, total) in counts["coded"].items()}

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    @property
    def busy_seconds(self) -> dict[str, float]:
        """Seconds of each stage that did work, and of ``programs``; ``download`` waits for the
        device's stages."""
        return {n: s for n, s in self.seconds.items() if s > 0 and n != "download"}

    @property
    def skipped(self) -> float:
        """The fraction of patches that the transformer did not compute, 0 to 1."""
        return 1 - self.kept / max(self.patches, 1)

    def coded(self, direction: str) -> float:
        """The fraction of blocks that were encoded or decoded ("encode", "decode"), 0 to 1."""
        ran, total = self._coded.get(direction, (0, 0))
        return ran / max(total, 1)

    @property
    def bounded_by(self) -> str:
        """Which of WORKERS was busy for longest: the run cannot be faster than that one."""
        return max(WORKERS, key=self._busy)

    @property
    def bound(self) -> float:
        """Seconds for which that one was busy."""
        return self._busy(self.bounded_by)

    def _busy(self, worker: str) -> float:
        return sum(self.seconds[stage] for stage in WORKERS[worker])

    def lines(self) -> list[str]:
        """The facts in a user's words, one a line, each with a label of one word."""
        busy = {name: s for name, s in self.seconds.items() if s >= 0.05}
        waited = busy.pop("programs", 0.0)
        seconds = ", ".join(f"{name} {s:.1f}" for name, s in busy.items())
        seconds = f"; busy: {seconds}" if seconds else ""
        seconds += f"; waited for programs: {waited:.1f}" if waited else ""
        tokens = ", ".join(
            f"{count} {'chunk' if count == 1 else 'chunks'} padded to {bucket}"
            for bucket, count in self.buckets.items()
        )
        coded = [f"{100 * self.coded(name):.1f} % {name}d" for name in ("encode", "decode")]
        fp8 = ", its wide convolutions in fp8" if self.coder_products == "fp8" else ""
        return [
            f"skipped    {100 * self.skipped:.1f} % of patches (mask: {self.mask_source})",
            f"video      {' and '.join(coded)} by the {self.coder} coder{fp8}",
            f"tokens     {tokens or 'none, the transformer did not run'}",
            *([f"products   {self.products}"] if self.buckets else []),
            *([f"adapter    {self.adapter}"] if self.adapter else []),
            *([f"sharpness  {self.sharpness:g}"] if self.sharpness else []),
            *(f"attention  {_attention_line(*choice)}" for choice in self.attention.items()),
            f"seconds    {self.passed:.1f}, bounded by {self.bounded_by}{seconds}",
            f"memory     {peak_memory()}",
        ]


def _attention_line(name: str, refused: Mapping[str, str]) -> str:
    """``xla (not cudnn, pallas_gpu: <reason>; not pallas_tpu: <reason>)``."""
    reasons: dict[str, list[str]] = {}
    for other, reason in refused.items():
        reasons.setdefault(reason, []).append(other)
    why = "; ".join(f"not {', '.join(others)}: {reason}" for reason, others in reasons.items())
    return f"{name} ({why})" if why else name


def peak_memory() -> str:
    """The most memory used so far, of this process and of the accelerator if there is one."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in kB but for macOS
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    text = f"{host / 2**30:.2f} GiB host"
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        text += f", {stats['peak_bytes_in_use'] / 2**30:.2f} GiB on the {device.platform}"
    return text
