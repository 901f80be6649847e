"""What of a batch is encoded at once, and what a latent frame at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import VAE_CONFIG, random_autoencoder

from skipsr_jax.training import frozen_vae


@pytest.mark.parametrize(("over", "frames"), [(0, 9), (1, 9), (0, 37)])
def test_large_batches_and_long_clips_are_encoded_a_latent_frame_at_a_time(
    monkeypatch, over, frames
):
    vae, params = random_autoencoder()
    params = jax.tree.map(jnp.asarray, params)
    shape = (2, frames, 16, 32, 3)
    numbers = int(np.prod(shape[:-1])) * VAE_CONFIG.block_channels[0]
    monkeypatch.setattr(frozen_vae, "LARGEST_WHOLE", numbers - over)
    traced = jax.make_jaxpr(lambda x: frozen_vae.encode(vae, params["vae"], x, None))(
        jax.ShapeDtypeStruct(shape, np.float32)
    )
    scans = [eqn for eqn in traced.eqns if eqn.primitive.name == "scan"]
    in_turn = [eqn for eqn in scans if eqn.params["length"] == (frames - 1) // 4]
    assert bool(in_turn) == (over > 0 or frames > frozen_vae.LONGEST_WHOLE)
    (latents,) = traced.out_avals
    assert latents.shape == (2, (frames - 1) // 4 + 1, 2, 4, 16)
