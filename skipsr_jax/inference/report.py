"""What a run did and what it cost: seconds per stage, skipped patches, buckets, peak memory."""

import contextlib
import dataclasses
import math
import resource
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from tqdm import tqdm

from skipsr_jax.tokens.blocks import Blocks, blocks_run
from skipsr_jax.tokens.buckets import Bucket

STAGES = ("read", "encode", "mask", "refine", "decode", "write")
"""``encode`` begins with the upscaling, ``decode`` ends with the colour fix and the download.
Reading and writing have threads of their own, so the stages' seconds add up to more than passed."""
_SHARES = {"encode": 0.35, "refine": 0.15, "decode": 0.5}
"""How far the bar moves at each stage; a guess at the time they take."""


class Report:
    """Collects the facts of one input and drives its progress bar (on a terminal only)."""

    def __init__(self, title: str, frames: int | None, show: bool):
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._began = time.perf_counter()
        self.kept = self.patches = self.frames = 0
        self.buckets: dict[Bucket, int] = {}
        self._blocks: dict[str, tuple[int, int]] = {}
        layout = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"
        self._bar = tqdm(
            total=frames, desc=title, bar_format=layout if frames else None, disable=not show
        )

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the seconds inside towards a stage."""
        self._bar.set_postfix_str(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began

    def advance(self, stage: str, frames: int) -> None:
        """Moves the bar: a stage is done with so many (new) frames."""
        self._bar.update(_SHARES[stage] * frames)

    def blocks(self, way: str, plan: list[Blocks] | None, grid: tuple[int, int, int]) -> None:
        """Notes how many blocks of a chunk were encoded or decoded; no plan: all."""
        total = math.prod(grid)
        ran, of = self._blocks.get(way, (0, 0))
        self._blocks[way] = ran + (total if plan is None else blocks_run(plan)), of + total

    @property
    def left_out(self) -> str:
        """The share of blocks that were neither encoded nor decoded."""
        shares = {way: 1 - ran / total for way, (ran, total) in self._blocks.items()}
        return ", ".join(f"{way} {100 * share:.1f} %" for way, share in shares.items())

    def chunk(self, keep: np.ndarray, bucket: Bucket | None) -> None:
        """Notes what ran of a chunk; no bucket: the transformer did not run."""
        self.kept += int(keep.sum())
        self.patches += keep.size
        if bucket is not None:
            self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()

    @property
    def passed(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self._began

    @property
    def skipped(self) -> float:
        """The share of patches that did not run, 0 to 1."""
        return 1 - self.kept / max(self.patches, 1)


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


@dataclasses.dataclass(frozen=True)
class Summary:
    """The closing lines of one input."""

    source: str
    target: str
    mask: str
    from_size: tuple[int, int]
    to_size: tuple[int, int]
    mask_source: str
    attention: str
    device: str

    def lines(self, report: Report) -> list[str]:
        """What to print."""
        sizes = [f"{width}x{height}" for height, width in (self.from_size, self.to_size)]
        plural = "" if report.frames == 1 else "s"
        stages = ", ".join(f"{k} {v:.1f}" for k, v in report.seconds.items() if v >= 0.05)
        ran = ", ".join(f"{bucket} ({n}x)" for bucket, n in report.buckets.items())
        kernel = f"{self.attention} attention" if report.buckets else "the transformer did not run"
        lines = [
            f"{self.source} -> {self.target}",
            f"  size     {sizes[0]} -> {sizes[1]}, {report.frames} frame{plural}",
            f"  skipped  {100 * report.skipped:.1f} % of patches (mask: {self.mask_source})",
            f"  blocks   left out: {report.left_out}",
            f"  bucket   {ran or 'none'}",
            f"  kernel   {kernel} on {self.device}",
            f"  seconds  {report.passed:.1f}: {stages}",
            f"  memory   {peak_memory()}",
        ]
        return [*lines, f"  mask     {self.mask}"] if self.mask else lines
