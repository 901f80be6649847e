"""Attention with merged heads, as TPUs run it, against attention with an axis of heads.

No TPU is needed: the kernels' references run, on rows that are laid out as for the chip.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.kernels.quantized import FORMATS
from skipsr_jax.models.dit import DiT, DiTConfig, attention
from skipsr_jax.models.params import abstract, bind, to_dict
from skipsr_jax.models.quantized_params import quantize_params
from skipsr_jax.parallel.mesh import make_mesh, pack_sharding, replicated
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import build_plan, stack_plans

BUCKET = Bucket(320, 16)
QUICK = {"xla_backend_optimization_level": 0}
CONFIG = DiTConfig(
    width=24, text_width=12, heads=4, head_dim=12, layers=2, mm_layers=0, expand_ratio=2,
    gated_mlp=True, pixel_rope=False, rope_dim=12, output_modulation=False, plain_text_at_last=True,
)  # fmt: skip


@pytest.fixture
def merged(monkeypatch):
    monkeypatch.setattr(attention, "merged_heads_run", lambda *_: True)


def inputs(packs, shards=1):
    """Tokens, text, timesteps and plans of packs of one clip, 40 % skipped."""
    rng = np.random.default_rng(0)
    masks = [rng.random((3, 8, 10)) < 0.6 for _ in range(packs)]
    plan = stack_plans([build_plan([keep], [3], BUCKET, shards=shards) for keep in masks])
    patches = rng.normal(size=(packs, BUCKET.tokens, 132)).astype(np.float32)
    text = rng.normal(size=(packs, 3, 12)).astype(np.float32)
    return patches, text, np.full((packs, 1), 500, np.float32), plan


def velocity_of(config, format=None):
    """Parameters, and the function of them and the inputs."""
    params = to_dict(DiT(config, rngs=nnx.Rngs(1)))
    model = abstract(lambda rngs: DiT(config, rngs=rngs, format=format))
    if format is not None:
        params = quantize_params(params, to_dict(model), format)
    return params, lambda params, *args: bind(model, params)(*args)


def run(function, params, args, mesh=None, sharding=replicated):
    """What the function gives, on one device or a mesh."""
    if mesh is None:
        mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        params = jax.device_put(params, shardings(params, mesh))
        args = jax.device_put(args, sharding(mesh))
        program = jax.jit(function).lower(params, *args).compile(QUICK)
        return jax.device_get(program(params, *args))


def test_velocity_and_gradient_are_those_of_separate_heads(merged, monkeypatch):
    args = inputs(2)
    params, velocity = velocity_of(CONFIG)
    weights = (
        np.random.default_rng(2).normal(size=(2, BUCKET.tokens, 64)) * args[3].valid[..., None]
    )

    def both(params, *args):
        loss = functools.partial(lambda params: jnp.vdot(velocity(params, *args), weights))
        return velocity(params, *args), jax.grad(loss)(params)

    got, got_gradient = run(both, params, args)
    monkeypatch.undo()
    want, want_gradient = run(both, params, args)
    valid = args[3].valid
    np.testing.assert_allclose(got[valid], want[valid], atol=1e-5)
    for one, other in zip(
        jax.tree.leaves(got_gradient), jax.tree.leaves(want_gradient), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=2e-4 * max(1, np.abs(other).max()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "packs", "whole_windows"),
    [
        ((1, 1, 2), 1, True),
        ((1, 1, 4), 1, False),
        ((1, 2, 2), 2, True),
        ((2, 2, 1), 4, False),
    ],
    ids=str,
)
def test_devices_that_share_packs(merged, monkeypatch, sizes, packs, whole_windows):
    """Whole windows in the shards, tokens exchanged for heads, and packs of its own for each."""
    mesh = make_mesh(*sizes, devices=jax.devices()[: np.prod(sizes)])
    args = inputs(packs, sizes[2])
    params, velocity = velocity_of(CONFIG)
    sharding = pack_sharding if packs > 1 else replicated
    got = run(velocity, params, args, mesh, sharding)
    monkeypatch.undo()
    want = run(velocity, params, args, mesh, sharding)
    valid = args[3].valid
    np.testing.assert_allclose(got[valid], want[valid], atol=2e-5)
    assert (args[3].shard_layouts is not None) == whole_windows


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 1, 4)], ids=str)
def test_quantised_products(merged, monkeypatch, sizes):
    mesh = make_mesh(*sizes, devices=jax.devices()[: sizes[2]])
    args = inputs(1, sizes[2])
    params, velocity = velocity_of(CONFIG, FORMATS["int8"])
    got = run(velocity, params, args, mesh)
    monkeypatch.undo()
    want = run(velocity, params, args, mesh)
    valid = args[3].valid
    np.testing.assert_allclose(got[valid], want[valid], atol=2e-2)  # a rounding step of int8
