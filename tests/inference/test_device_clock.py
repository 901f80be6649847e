"""Busy seconds of stages, measured without making the caller wait."""

import threading
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from skipsr_jax.inference.device_clock import DeviceClock


class Clock:
    """The time, which passes only while somebody waits for a result."""

    time = 0.0


class Result:
    """Stands for an array that is ready at a given time."""

    def __init__(self, clock, ready):
        self._clock, self._ready = clock, ready

    def block_until_ready(self):
        self._clock.time = max(self._clock.time, self._ready)
        return self


def test_stages_that_follow_one_another_share_the_time():
    seconds, clock = Counter(), Clock()
    with DeviceClock(lambda s, taken, _: seconds.update({s: taken}), lambda: clock.time) as device:
        device.watch("encode", Result(clock, 10.0), called=0.0)
        device.watch("refine", Result(clock, 15.0), called=0.0)  # begins when encode is done
        device.watch("decode", Result(clock, 40.0), called=30.0)  # the device was idle before
        device.watch("encode", Result(clock, 42.0), called=31.0)
    assert seconds == {"encode": 12, "refine": 5, "decode": 10}


def test_real_arrays_are_counted():
    seconds = Counter()
    product = jax.jit(lambda x: x @ x)
    with DeviceClock(lambda stage, taken, _: seconds.update({stage: taken})) as device:
        for _ in range(3):
            device.watch("product", product(np.ones((300, 300), np.float32)), called=0.0)
    assert list(seconds) == ["product"] and seconds["product"] > 0


def test_a_clock_has_a_thread_only_while_there_is_something_to_watch():
    before = threading.active_count()
    device = DeviceClock(lambda *_: None)
    assert threading.active_count() == before
    device.watch("product", jnp.ones(3), called=0.0)
    device.close()
    device.close()
    assert threading.active_count() == before
