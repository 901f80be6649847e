"""A model that has grown gives the results of the one that it grew from, and can be trained on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.growth import deeper, larger_light_coder
from skipsr_jax.models.light_coder import LightCoder, LightCoderConfig
from skipsr_jax.models.params import bind, flatten, to_dict
from skipsr_jax.tokens.plan import build_plan

CODER = LightCoderConfig((4, 6, 8), (1, 2, 1), (4, 6, 8), (1, 2, 1))
WIDER_CODER = LightCoderConfig((5, 9, 12), (1, 2, 1), (6, 8, 11), (1, 2, 1))
LARGER_CODER = LightCoderConfig((4, 6, 12), (2, 2, 1), (6, 9, 8), (1, 5, 2))
DIT = DiTConfig(
    width=32, text_width=12, heads=2, head_dim=16, layers=3, mm_layers=1, expand_ratio=4,
    gated_mlp=True, pixel_rope=False, rope_dim=16, output_modulation=False, plain_text_at_last=True,
)  # fmt: skip


def random_like(module, seed):
    """Parameters of which none is zero; the scales of norms and modulation lie around one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if leaf.ndim <= 2 and path[-1].key != "kernel":
            return jnp.asarray(rng.normal(1.0, 0.1, leaf.shape), jnp.float32)
        return jnp.asarray(rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, to_dict(module))


def coded(config, params, frames, latents):
    light = bind(LightCoder(config, rngs=nnx.Rngs(0)), params)
    return light.encode(frames)[0].mean, light.decode(latents, None, frames)[0]


@pytest.mark.parametrize("larger", [WIDER_CODER, LARGER_CODER])
def test_a_larger_light_coder_codes_alike_and_what_is_new_can_be_trained(larger):
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.uniform(-1, 1, (1, 5, 16, 24, 3)), jnp.float32)
    latents = jnp.asarray(rng.normal(size=(1, 2, 2, 3, 16)), jnp.float32)
    small = random_like(LightCoder(CODER, rngs=nnx.Rngs(0)), 1)
    large = larger_light_coder(small, random_like(LightCoder(larger, rngs=nnx.Rngs(0)), 2))
    wanted, found = (
        coded(config, params, frames, latents)
        for config, params in ((CODER, small), (larger, large))
    )
    for a, b in zip(wanted, found, strict=True):
        assert np.abs(a).max() > 0.1
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)

    def loss(params):
        return sum(jnp.square(x - 1).sum() for x in coded(larger, params, frames, latents))

    gradients = flatten(jax.grad(loss)(large))
    still = [name for name, g in gradients.items() if name.endswith("kernel") and not g.any()]
    # A new block's first convolution can be trained once its second one is not zero.
    new = flatten(large).keys() - flatten(small).keys()
    assert still == sorted(name for name in new if name.endswith("conv1/kernel"))


def test_a_deeper_transformer_gives_the_same_and_its_new_blocks_can_be_trained():
    deep = dataclasses.replace(DIT, layers=6)
    small = random_like(DiT(DIT, rngs=nnx.Rngs(0)), 1)
    large = deeper(small, random_like(DiT(deep, rngs=nnx.Rngs(0)), 2))
    plan = build_plan([np.random.default_rng(1).random((2, 5, 6)) < 0.7], [5])
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(*plan.valid.shape, 132)).astype(np.float32)
    text = rng.normal(size=(1, 5, 12)).astype(np.float32)
    timestep = np.array([[700.0]], np.float32)
    valid, inputs = plan.valid, jax.tree.map(jnp.asarray, (tokens, text, timestep, plan))

    def run(config, params):
        return bind(DiT(config, rngs=nnx.Rngs(0)), params)(*inputs)[valid]

    wanted = run(DIT, small)
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(run(deep, large), wanted, rtol=1e-5, atol=1e-5)
    gradients = flatten(jax.grad(lambda params: jnp.square(run(deep, params)).sum())(large))
    added = np.asarray(gradients["shared_blocks/all/proj_out/kernel"])[1:4]
    assert (np.abs(added).max(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("function", "small", "large", "words"),
    [
        (larger_light_coder, (LightCoder, WIDER_CODER), (LightCoder, CODER), "more than"),
        (larger_light_coder, (LightCoder, CODER), (LightCoder, LightCoderConfig()), "blocks alone"),
        (deeper, (DiT, dataclasses.replace(DIT, layers=4)), (DiT, DIT), "video and text share"),
        (deeper, (DiT, DIT), (DiT, dataclasses.replace(DIT, width=48)), "video and text share"),
    ],
)
def test_what_cannot_grow_is_refused(function, small, large, words):
    params = [to_dict(network(config, rngs=nnx.Rngs(0))) for network, config in (small, large)]
    with pytest.raises(ValueError, match=words):
        function(*params)
