"""Throughput between two log lines: seconds a step, tokens a second, utilisation, memory.

Time spent on the first step of each kind of batch (it compiles), on evaluation and on saving is not
counted.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax

from skipsr_jax.data.batch import Batch
from skipsr_jax.parallel.device_peaks import peak_flops
from skipsr_jax.training.stage import Stage


class Throughput:
    """Counts steps and what they process; ``report`` returns the rates.

    Args:
      stage: its ``flops`` are counted, if it has them.
      hosts: over how many hosts a batch is spread.
    """

    def __init__(self, stage: Stage, hosts: int):
        self._flops = stage.flops
        self._hosts = hosts
        self._peak = peak_flops(jax.devices()[0].device_kind)
        self._restart()

    def _restart(self) -> None:
        self._since, self._steps = time.monotonic(), 0
        self._samples = self._tokens = self._pixels = 0
        self._operations = 0.0

    def add(self, batch: Batch) -> None:
        """Counts a step on this host's ``batch``, which is still on the host."""
        self._steps += 1
        self._samples += sum(len(clips) for clips in batch.hr)
        self._pixels += sum(clips.size // 3 for clips in batch.hr)
        if batch.plan is not None:
            self._tokens += int(batch.plan.valid.sum())
        if self._flops is not None:
            self._operations += self._flops(batch)

    @contextlib.contextmanager
    def paused(self, pending: Any) -> Iterator[None]:
        """A context whose time is not counted. It begins when ``pending`` is ready.

        ``pending``: arrays that the last step computes.
        """
        jax.block_until_ready(pending)
        began = time.monotonic()
        yield
        self._since += time.monotonic() - began

    def report(self) -> dict[str, float]:
        """The rates since the last report, of all hosts together; call it when steps are done.

        ``tokens_per_second`` are kept tokens through the transformer; stages without token plans
        have ``megapixels_per_second``. ``tflops_per_second`` and ``mfu_percent`` are model
        operations of a device, the latter against its bfloat16 peak where that is known.
        ``memory_gib`` is the peak of the devices of this host since the program began, on devices
        that report it.
        """
        found: dict[str, float] = {}
        if self._steps:
            seconds = time.monotonic() - self._since
            found["step_seconds"] = seconds / self._steps
            found["samples_per_second"] = self._samples * self._hosts / seconds
            if self._tokens:
                found["tokens_per_second"] = self._tokens * self._hosts / seconds
            else:
                found["megapixels_per_second"] = self._pixels * self._hosts / seconds / 1e6
            if self._operations:
                each = self._operations * self._hosts / seconds / jax.device_count()
                found["tflops_per_second"] = each / 1e12
                if self._peak is not None:
                    found["mfu_percent"] = 100 * each / self._peak
        memory = [device.memory_stats() or {} for device in jax.local_devices()]
        peaks = [stats["peak_bytes_in_use"] for stats in memory if "peak_bytes_in_use" in stats]
        if peaks:
            found["memory_gib"] = max(peaks) / 2**30
        self._restart()
        return found
