"""The step that fits: policies are tried in order, and nothing but the memory depends on them."""

import logging
import re

import jax
import jax.numpy as jnp
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.models.dit import AUTO
from skipsr_jax.models.dit.remat import REMAT_POLICIES, policy
from skipsr_jax.training import remat
from skipsr_jax.training.remat import TRIED, fitting_step

SHORT = "needs 9 GiB and the device has 8"


def stepped(shorts, chosen, monkeypatch):
    """Runs a step that notes the policies it is traced with; ``shorts``: for each compilation."""
    traced, answers = [], iter(shorts)
    monkeypatch.setattr(remat, "missing_memory", lambda step: next(answers))

    def make_step():
        def step(state, x):
            traced.append(policy(AUTO))
            return state + x

        return step

    inputs = (jnp.zeros(3), jnp.ones(3))
    step = fitting_step(make_step, chosen, inputs)
    assert step(*inputs).sum() == 3
    step(jnp.zeros(5), jnp.ones(5))  # another shape is traced outside of the choice
    return traced


def test_auto_takes_the_first_policy_that_fits(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    traced = stepped((SHORT, None), AUTO, monkeypatch)
    dots, outputs = (REMAT_POLICIES[name] for name in TRIED[:2])
    assert traced == [dots, outputs, outputs]
    first, second = (record.getMessage() for record in caplog.records if "auto" in record.msg)
    assert SHORT in first and "outputs is tried" in first
    assert second.endswith("remat=outputs")


def test_a_named_policy_is_compiled_alone(monkeypatch):
    assert len(stepped((None,), "full", monkeypatch)) == 2


@pytest.mark.parametrize(("chosen", "tries"), [(AUTO, len(TRIED)), ("dots", 1)])
def test_a_step_that_fits_with_none_is_refused_with_the_keys_that_help(chosen, tries, monkeypatch):
    with pytest.raises(UserError, match=rf"a training step {re.escape(SHORT)}: .*remat=full"):
        stepped((SHORT,) * tries, chosen, monkeypatch)


def test_a_step_that_the_options_stop_is_compiled_without(monkeypatch, caplog):
    options = {"xla_gpu_nothing_like_it": True}  # XLA refuses it, as it does what cuDNN lacks
    monkeypatch.setattr(remat, "convolution_options", lambda fused: options)
    assert len(stepped((None,), "full", monkeypatch)) == 2
    assert "compiled without xla_gpu_nothing_like_it" in caplog.text
    monkeypatch.setattr(remat, "convolution_options", lambda fused: {})
    with pytest.raises(jax.errors.JaxRuntimeError, match="no kernel"):
        fitting_step(lambda: refused, "full", (jnp.zeros(3),))


def refused(x):
    raise jax.errors.JaxRuntimeError("no kernel")


def test_outside_of_a_choice_auto_stores_least():
    assert policy(AUTO) is jax.checkpoint_policies.nothing_saveable
