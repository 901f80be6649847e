"""Clips run slice by slice: how they are cut, and that two programs serve any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.geometry import spans
from skipsr_jax.models.params import bind
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.models.vae.slices import (
    decode_clip,
    decode_step,
    encode_clip,
    encode_scanned,
    encode_step,
    frame_slices,
    latent_slices,
)


def test_lengths():
    assert latent_slices(1) == [1]
    assert latent_slices(4) == [1, 1, 1, 1]
    assert latent_slices(9, per_slice=3) == [1, 3, 3, 1, 1]
    assert frame_slices(13) == [1, 4, 4, 4]
    assert frame_slices(29, per_slice=3) == [1, 12, 12, 4]
    for per_slice in (1, 2, 5):
        for latents in range(1, 12):
            assert sum(latent_slices(latents, per_slice)) == latents
            assert sum(frame_slices(4 * latents - 3, per_slice)) == 4 * latents - 3
    with pytest.raises(ValueError, match=r"6 frames.*up to 9"):
        frame_slices(6)
    with pytest.raises(ValueError, match=r"0 frames.*up to 1"):
        frame_slices(0)


@pytest.mark.slow
def test_two_programs_serve_clips_of_any_length(fill):
    config = VAEConfig((4, 4, 8, 8), layers_per_block=1, norm_groups=2, residual_decoder=True)
    vae, params = fill(lambda rngs: VAE(config, rngs=rngs))
    encode, decode = encode_step(vae), decode_step(vae)
    rng = np.random.default_rng(0)
    for length in (9, 13):
        clip = rng.normal(size=(1, length, 8, 8, 3)).astype(np.float32)
        slices = [clip[:, part] for part in spans(frame_slices(length))]
        means = [posterior.mean for posterior in encode_clip(encode, params, slices)]
        frames = list(decode_clip(decode, params, means, slices))
        assert [f.shape[1] for f in frames] == frame_slices(length)
        assert not jnp.allclose(frames[-1], slices[-1])
    assert encode._cache_size() == 2
    assert decode._cache_size() == 2

    # The memory of a cache becomes the next one's; that of the other inputs stays.
    for step, part in ((encode, slices), (decode, means)):
        upscaled = [slices[:1], slices[1:2]] if step is decode else [[], []]
        _, cache = step(params, part[0], None, *upscaled[0])
        leaves = jax.tree.leaves(cache)
        step(params, part[1], cache, *upscaled[1])
        assert all(leaf.is_deleted() for leaf in leaves)
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, means)))


def test_a_scanned_clip_is_encoded_as_one_at_once(fill):
    config = VAEConfig((4, 4, 8, 8), layers_per_block=1, norm_groups=2)
    vae, params = fill(lambda rngs: VAE(config, rngs=rngs))
    clip = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8, 16, 3)), jnp.float32)

    @jax.jit
    def both(params, clip):
        vae_here = bind(vae, params)
        return encode_scanned(vae_here, clip), vae_here.encode(clip)[0]

    scanned, whole = both(params, clip)
    for got, want in zip(scanned, whole, strict=True):
        assert got.shape == (2, 3, 1, 2, 16)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_slices_of_latents_and_input_must_pair():
    def step(params, latents, cache, upscaled):
        return upscaled, ()

    z, frames = jnp.zeros((1, 1, 1, 1, 16)), jnp.zeros((1, 1, 8, 8, 3))
    with pytest.raises(ValueError, match=r"shorter|longer"):
        list(decode_clip(step, {}, [z, z], [frames]))
