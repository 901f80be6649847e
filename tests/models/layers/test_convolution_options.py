"""Convolutions on GPUs are compiled channels last; XLA of every supported jax knows the options."""

import jax
import jax.numpy as jnp
import pytest

from skipsr_jax.kernels.target import Target
from skipsr_jax.models.layers import convolution_options as module
from skipsr_jax.models.layers.convolution_options import FUSION, NHWC, convolution_options


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(module, "current_target", lambda: Target("gpu", (9, 0)))
    monkeypatch.setenv("XLA_FLAGS", "")


def test_a_gpu_gets_options_that_xla_knows(gpu):
    options = convolution_options()
    assert options == {NHWC: True, FUSION: True}
    assert convolution_options(fused=False) == {NHWC: True}
    assert jax.jit(jnp.sin, compiler_options=options)(jnp.zeros(())) == 0  # else it raises


def test_flags_of_the_user_hold(gpu, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", f"--{NHWC}=false --xla_gpu_autotune_level=0")
    assert convolution_options() == {FUSION: True}
    monkeypatch.setenv("XLA_FLAGS", f"--{NHWC}=true --{FUSION}=true")
    assert convolution_options() == {}


@pytest.mark.parametrize("platform", ["cpu", "tpu", "gpu"])  # of another maker
def test_other_platforms_get_none(platform, monkeypatch):
    monkeypatch.setattr(module, "current_target", lambda: Target(platform))
    assert convolution_options() == {}
