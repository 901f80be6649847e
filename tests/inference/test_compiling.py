"""Compiling for GPUs: one program at a time, and once more where it failed."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from skipsr_jax.inference.compiling import compile_for, compile_in_turn
from skipsr_jax.models.layers.convolution_options import FUSION


class Lowered:
    """Stands for a lowered program: notes how many are compiled at the same time."""

    lock, running, most = threading.Lock(), 0, 0

    def __init__(self, failures=0):
        self.failures = failures

    def compile(self, compiler_options=None):
        self.options = compiler_options
        with Lowered.lock:
            Lowered.running += 1
            Lowered.most = max(Lowered.most, Lowered.running)
        time.sleep(0.02)
        with Lowered.lock:
            Lowered.running -= 1
        self.failures -= 1
        if self.failures >= 0:
            raise jax.errors.JaxRuntimeError("NOT_FOUND: All configs failed\nmore")
        return self


@pytest.mark.parametrize(("platform", "most"), [("gpu", 1), ("cpu", 4)])
def test_programs_for_a_gpu_are_compiled_one_at_a_time(platform, most):
    Lowered.most = 0
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: compile_in_turn(Lowered().compile, "p", platform), range(4)))
    assert Lowered.most == most


def test_a_failure_is_said_and_compiled_once_more(caplog):
    lowered = Lowered(failures=1)
    assert compile_in_turn(lowered.compile, "decode", "gpu") is lowered
    assert lowered.options == {FUSION: False}
    assert "decode is compiled once more" in caplog.text and "All configs failed" in caplog.text
    assert "more\n" not in caplog.messages[0]


@pytest.mark.parametrize(("platform", "failures"), [("gpu", 2), ("cpu", 1)])
def test_failures_that_stay_reach_the_caller(platform, failures):
    with pytest.raises(jax.errors.JaxRuntimeError, match="All configs failed"):
        compile_in_turn(Lowered(failures).compile, "p", platform)


def test_programs_without_a_search_take_no_turn():
    Lowered.most, programs = 0, [Lowered() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda x: compile_for("gpu", x.compile, "p", autotune=False), programs))
    assert Lowered.most > 1
    assert all(x.options == {"xla_gpu_autotune_level": 0} for x in programs)
    for platform, autotune in (("gpu", True), ("cpu", False), ("tpu", False)):
        assert compile_for(platform, Lowered().compile, "p", autotune).options is None
