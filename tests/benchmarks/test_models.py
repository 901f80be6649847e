"""Random parameters of the benchmarks' models."""

import jax
import numpy as np

from benchmarks.models import abstract_vae, first_device, random_parameters
from skipsr_jax.kernels.quantized import FORMATS
from skipsr_jax.models.params import flatten, to_dict
from skipsr_jax.models.vae import VAEConfig

CONFIG = VAEConfig((128, 8, 8, 8), layers_per_block=1, norm_groups=4)


def facts(params):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params)


def test_quantised_ones_are_made_of_the_others():
    fp8 = abstract_vae(CONFIG, "bfloat16", format=FORMATS["fp8"])
    plain, made = (
        random_parameters(module, first_device())
        for module in (abstract_vae(CONFIG, "bfloat16"), fp8)
    )
    assert facts(made) == facts(to_dict(fp8))
    plain, made = flatten(plain), flatten(made)
    same = plain.keys() & made.keys()
    assert same < plain.keys() and all((plain[path] == made[path]).all() for path in same)


def test_leaves_of_one_shape_differ_and_have_the_deviation_of_the_fan_in():
    found = flatten(random_parameters(abstract_vae(CONFIG, "float32"), first_device()))
    one, two = (found[f"decoder/up_blocks/3/resnets/1/conv{i}/kernel"] for i in (1, 2))
    assert one.shape == two.shape and not (one == two).any()
    assert abs(np.std(one) * 128**0.5 - 1) < 0.05
