"""Quantised products in the transformer: errors against float32, on one device and on several."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.masks import blob_mask
from benchmarks.models import abstract_dit, first_device, plan_for, random_inputs, random_parameters
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.models.dit import TINY
from skipsr_jax.models.params import flatten, to_dict
from skipsr_jax.models.quantized_params import dequantize_params, quantize_params

GATED = dataclasses.replace(TINY, width=96, heads=4, head_dim=24, rope_dim=24, layers=2)
PLAIN = dataclasses.replace(GATED, gated_mlp=False, pixel_rope=True, output_modulation=True)
CONFIGS = {"3B-style": GATED, "7B-style": PLAIN}
MOST = {"fp8": 0.09, "int8": 0.03}


def case(config, shards=1):
    dit = abstract_dit(config, jnp.float32)
    plan = plan_for(blob_mask((3, 8, 12), 0.4), shards)
    return dit, random_parameters(dit, first_device()), plan, random_inputs(config, plan, "float32")


def velocity(dit, params, plan, inputs):
    return np.asarray(velocity_step(dit)(params, *inputs))[plan.valid]


def quantized(params, config, name):
    dit = abstract_dit(config, jnp.float32, precision=name)
    return dit, quantize_params(jax.tree.map(jnp.copy, params), to_dict(dit), dit.format)


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_velocity_against_float32(config):
    dit, params, *rest = case(config)
    want = velocity(dit, params, *rest)
    for name, most in MOST.items():
        of_format, made = quantized(params, config, name)
        error = relative(velocity(of_format, made, *rest), want)
        assert most / 10 < error < most, name
        whole = dequantize_params(made, jnp.float32)
        assert set(flatten(whole)) == set(flatten(params))
        assert relative(velocity(dit, whole, *rest), want) < error, name
