"""Quantised products in the transformer: errors against float32, on one device and on several."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.masks import blob_mask
from benchmarks.models import abstract_dit, plan_for, random_inputs
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.models.dit import TINY
from skipsr_jax.models.params import to_dict
from skipsr_jax.models.quantized_params import quantize_params
from skipsr_jax.parallel.mesh import make_mesh, replicated
from skipsr_jax.parallel.rules import shardings

GATED = dataclasses.replace(TINY, width=96, heads=4, head_dim=24, rope_dim=24, layers=2)
PLAIN = dataclasses.replace(
    GATED, layers=1, gated_mlp=False, pixel_rope=True, output_modulation=True
)
QUICK = {"xla_backend_optimization_level": 0}
MOST = {"fp8": 0.09, "int8": 0.03}


def case(config, grid=(3, 8, 12), shards=1):
    """A transformer of random numbers, a plan and inputs."""
    dit, rng = abstract_dit(config, jnp.float32), np.random.default_rng(0)

    def draw(leaf):
        scale = leaf.shape[-2] ** -0.5 if leaf.shape[-2:-1] else 1.0
        return jnp.asarray(scale * rng.normal(size=leaf.shape), leaf.dtype)

    plan = plan_for(blob_mask(grid, 0.4), shards)
    return dit, jax.tree.map(draw, to_dict(dit)), plan, random_inputs(config, plan, "float32")


def velocity(dit, params, plan, inputs):
    program = velocity_step(dit).lower(params, *inputs).compile(QUICK)
    return np.asarray(program(params, *inputs))[plan.valid]


def quantized(params, config, name):
    dit = abstract_dit(config, jnp.float32, precision=name)
    return dit, quantize_params(jax.tree.map(jnp.copy, params), to_dict(dit), dit.format)


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize(
    "config", [GATED, pytest.param(PLAIN, marks=pytest.mark.slow)], ids=["3B-style", "7B-style"]
)
def test_velocity_against_float32(config):
    dit, params, *rest = case(config)
    want = velocity(dit, params, *rest)
    for name, most in MOST.items():
        of_format, made = quantized(params, config, name)
        error = relative(velocity(of_format, made, *rest), want)
        assert most / 10 < error < most, name


def test_several_devices_give_the_numbers_of_one():
    """Kernels and scales are sharded; one layer attends by windows, the other by heads."""
    config = dataclasses.replace(GATED, mm_layers=0)
    _, params, plan, inputs = case(config, (12, 6, 8), shards=2)
    assert plan.shard_layouts is not None
    dit, made = quantized(params, config, "fp8")
    uncut = (*inputs[:-1], plan._replace(shard_layouts=None))
    want = velocity(dit, made, plan, uncut)
    mesh = make_mesh(1, 2, 1, devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        spread = jax.device_put(made, shardings(made, mesh))
        kernel = spread["shared_blocks"]["all"]["qkv"]["quantized_kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (2, 3 * 96 // 2, 96)
        args = jax.device_put((*inputs[:-1], plan), replicated(mesh))
        program = velocity_step(dit).lower(spread, *args).compile(QUICK)
        got = np.asarray(program(spread, *args))[plan.valid]
    # A row that rounds to the other neighbour of 8 bits moves by a sixteenth.
    assert relative(got, want) < 0.02
