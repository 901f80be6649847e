"""The discriminator of decoded frames: what a logit depends on."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from skipsr_jax.models.discriminator import PatchDiscriminator

RNG = np.random.default_rng(0)
FRAMES = RNG.uniform(-1, 1, (1, 5, 16, 32, 3)).astype(np.float32)
LATENTS = RNG.normal(size=(1, 2, 2, 4, 3)).astype(np.float32)


def changed(frames=None, latents=None):
    """Which logits (f, h, w) change when this frame or latent frame does."""
    model = PatchDiscriminator(2, 3, rngs=nnx.Rngs(0))
    logits = jax.jit(model)
    before = logits(FRAMES, LATENTS)
    assert before.shape == (1, 5, 2, 4) and before.dtype == jnp.float32
    x, z = FRAMES.copy(), LATENTS.copy()
    if frames is not None:
        x[:, frames] += 0.5
    if latents is not None:
        z[:, latents] += 0.5
    return np.asarray(before != logits(x, z))[0]


def test_a_logit_depends_on_its_frame_the_one_before_and_its_latent_frame():
    of_frame = changed(frames=2)
    assert of_frame[2:4].all() and not of_frame[[0, 1, 4]].any()
    of_latent = changed(latents=1)
    assert of_latent[1:].all() and not of_latent[0].any()
    assert changed(latents=0)[0].all()


def test_logits_that_drift_together_stay_apart_in_bfloat16():
    model = PatchDiscriminator(2, 3, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    args = jnp.asarray(FRAMES), jnp.asarray(LATENTS)
    before = model(*args)
    model.logit.bias[...] = jnp.full_like(model.logit.bias[...], -22.0)
    np.testing.assert_allclose(model(*args) + 22.0, before, atol=1e-5)
