"""What steps cost, on a clock that the test turns."""

import jax
import numpy as np
import pytest

from skipsr_jax.data.batch import Batch
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.sample import Recipe
from skipsr_jax.tokens.plan import build_plan
from skipsr_jax.training import throughput
from skipsr_jax.training.stage import Stage

BATCH = Batch(hr=(np.zeros((2, 5, 16, 32, 3), np.uint8),))


class Device:
    device_kind = "NVIDIA H100 80GB HBM3"

    def memory_stats(self):
        return {"peak_bytes_in_use": 3 * 2**30}


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(throughput.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(), Device()])
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    return now


def meter(flops=None):
    recipe = Recipe(ClipShape(2, 5, 16, 32), None)
    stage = Stage(dict, lambda *_: None, {}, frozenset(), recipe, {}, flops=flops)
    return throughput.Throughput(stage, 2)


def test_numbers_of_all_hosts_without_what_is_no_step(clock):
    counted = meter(lambda batch: 4e12)
    plan = build_plan([np.ones((2, 1, 2), bool), np.eye(2, dtype=bool)[None]], [3, 3])
    for _ in range(5):
        clock[0] += 0.5
        counted.add(BATCH._replace(plan=plan))
    with counted.paused(()):
        clock[0] += 100
    found = counted.report()
    each = 2 * 5 * 4e12 / 2.5 / 4  # hosts, steps, seconds, devices
    assert found == pytest.approx({
        "step_seconds": 0.5,
        "samples_per_second": 2 * 2 / 0.5,
        "tokens_per_second": 2 * (4 + 2) / 0.5,
        "tflops_per_second": each / 1e12,
        "mfu_percent": 100 * each / 989e12,
        "memory_gib": 3.0,
    })  # fmt: skip
    assert counted.report() == {"memory_gib": 3.0}  # nothing since


def test_without_tokens_pixels_are_counted_and_unknown_devices_have_no_utilisation(
    clock, monkeypatch
):
    monkeypatch.setattr(Device, "device_kind", "cpu")
    monkeypatch.setattr(Device, "memory_stats", lambda self: None)
    counted = meter(lambda batch: 1e12)
    clock[0] += 2.0
    counted.add(BATCH)
    found = counted.report()
    assert found["megapixels_per_second"] == pytest.approx(2 * 2 * 5 * 16 * 32 / 2 / 1e6)
    assert found["tflops_per_second"] == pytest.approx(2 / 2 / 4)
    assert not found.keys() & {"tokens_per_second", "mfu_percent", "memory_gib"}
