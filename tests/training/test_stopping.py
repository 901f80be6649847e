"""SIGTERM ends a run at once while there is nothing to save, and is noted afterwards."""

import contextlib
import os
import signal
import threading

import pytest

from skipsr_jax.signals import Stopped
from skipsr_jax.training.stopping import Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_before_the_first_step_it_is_raised(number):
    with contextlib.closing(Preemption()) as preemption:
        with pytest.raises(Stopped) as stopped:
            os.kill(os.getpid(), number)
            threading.Event().wait(600)
        assert stopped.value.number == number
        assert preemption.reached()


def test_afterwards_it_is_noted_but_for_ctrl_c():
    with contextlib.closing(Preemption()) as preemption:
        preemption.has_work = True
        assert not preemption.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(600)
