"""The discriminator: its body is the transformer's, its logits are each sample's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_model import DIT_CONFIG

from skipsr_jax.models.discriminator import Discriminator, body_of
from skipsr_jax.models.dit import SEEDVR2_3B, SEEDVR_7B, DiT
from skipsr_jax.models.params import abstract, bind, flatten, to_dict
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.parallel.rules import spec_for
from skipsr_jax.tokens.plan import build_plan

QUICK = {"xla_backend_optimization_level": 0}
"""Compiling takes most of the time here, running next to none."""

CONFIG = dataclasses.replace(DIT_CONFIG, layers=3, mm_layers=1)


def discriminator_of(config, depths):
    return abstract(lambda rngs: Discriminator(config, depths, rngs=rngs))


@pytest.fixture(scope="module")
def pack():
    """Two samples in one sequence: (stored tokens, text, timesteps, plan)."""
    rng = np.random.default_rng(0)
    plan = build_plan([rng.random((2, 3, 4)) < 0.6, rng.random((1, 4, 5)) < 0.5], [3, 2])
    tokens = rng.normal(size=(*plan.sample.shape, 132)).astype(np.float32)
    text = rng.normal(size=(1, 6, CONFIG.text_width)).astype(np.float32)
    return jax.tree.map(jnp.asarray, (tokens, text, np.array([[700.0, 100.0]], np.float32), plan))


def test_the_body_of_the_transformer_sees_what_the_transformer_sees(fill, pack):
    dit, params = fill(lambda rngs: DiT(CONFIG, rngs=rngs))
    module = discriminator_of(CONFIG, (2, 3)).body  # the first cut is inside the shared blocks

    def both(params):
        body = body_of(params, to_dict(module))
        return bind(module, body).hidden(*pack)[0], bind(dit, params).hidden(*pack)[0]

    (early, last), (wanted,) = jax.jit(both, compiler_options=QUICK)(params)
    valid = np.asarray(pack[3].valid)
    np.testing.assert_allclose(last[valid], wanted[valid], atol=1e-4)
    assert np.abs(early - last)[valid].max() > 0.1


def test_layers_that_no_head_sees_are_not_built(fill):
    separate = dataclasses.replace(CONFIG, mm_layers=3)
    for config, depths, stacks in (
        (separate, (2,), {"mm_blocks_0": [0, 1]}),
        (CONFIG, (1,), {"mm_blocks_0": [0]}),
        (CONFIG, (2,), {"mm_blocks_0": [0], "shared_blocks_1": [1]}),
    ):
        _, dit = fill(lambda rngs, config=config: DiT(config, rngs=rngs))
        body = body_of(dit, to_dict(discriminator_of(config, depths).body))
        assert {name for name in body if "blocks" in name} == stacks.keys()
        layers = [
            leaf
            for stack in ("mm_blocks", "shared_blocks")
            for branch in (dit.get(stack, {}).get("vid"), dit.get(stack, {}).get("all"))
            if branch
            for leaf in np.asarray(branch["qkv"]["kernel"])
        ]
        for name, numbers in stacks.items():
            branch = body[name].get("vid") or body[name]["all"]
            np.testing.assert_array_equal(
                branch["qkv"]["kernel"], np.stack([layers[i] for i in numbers])
            )


@pytest.fixture(scope="module")
def looking(fill):
    module, params = fill(lambda rngs: Discriminator(CONFIG, (1, 3), rngs=rngs))
    run = jax.jit(lambda p, *args: bind(module, p)(*args)[0], compiler_options=QUICK)
    return lambda *args: np.asarray(run(params, *args))


def test_a_logit_is_blind_to_padding_and_to_other_samples(looking, pack):
    tokens, text, timestep, plan = pack
    base = looking(*pack)
    assert base.shape == (1, 2) and base.dtype == np.float32
    padding = jnp.where(plan.valid[..., None], tokens, jnp.nan)
    np.testing.assert_array_equal(base, looking(padding, text, timestep, plan))
    second = (plan.valid & (plan.sample == 1))[..., None]
    other = looking(tokens + second, text, timestep, plan)
    assert other[0, 0] == pytest.approx(base[0, 0], abs=1e-5)
    assert abs(other[0, 1] - base[0, 1]) > 1e-3


def test_logits_depend_on_text_and_timestep(looking, pack):
    tokens, text, timestep, plan = pack
    base = looking(*pack)
    for changed in ((text.at[0, 0].add(1.0), timestep), (text, timestep.at[0, 0].set(50.0))):
        found = looking(tokens, *changed, plan)
        assert abs(found[0, 0] - base[0, 0]) > 1e-4
        assert found[0, 1] == pytest.approx(base[0, 1], abs=1e-5)


@pytest.mark.parametrize("depths", [(), (0, 2), (2, 2), (3, 1), (2, 4)])
def test_impossible_depths_are_refused(depths):
    with pytest.raises(ValueError, match="depths"):
        Discriminator(CONFIG, depths, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("config", "depths"), [(SEEDVR2_3B, (14, 23, 32)), (SEEDVR_7B, (16, 26, 36))], ids=["3b", "7b"]
)
def test_published_sizes_are_cut_over_the_mesh(config, depths):
    mesh = make_mesh(1, 8, 1)
    params = flatten({"discriminator": to_dict(discriminator_of(config, depths))})
    whole = 0
    for path, leaf in params.items():
        if "fsdp" not in jax.tree.leaves(tuple(spec_for(f"params/{path}", leaf.shape, mesh))):
            whole += leaf.size
    total = sum(leaf.size for leaf in params.values())
    assert whole < 0.002 * total  # norms, biases and the like
    heads = sum(leaf.size for path, leaf in params.items() if "/head_" in path)
    body = sum(leaf.size for path, leaf in params.items() if "/body/" in path)
    dit = sum(leaf.size for leaf in jax.tree.leaves(to_dict(abstract_dit(config))))
    assert 0 < dit - body < 0.001 * dit  # all but the output layer
    assert 0 < heads < 0.12 * body


def abstract_dit(config):
    return abstract(lambda rngs: DiT(config, rngs=rngs))
