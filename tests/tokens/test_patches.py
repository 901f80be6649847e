import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.tokens.patches import (
    gather_kept,
    join_channels,
    patchify,
    scatter_kept,
    unpatchify,
)


def test_a_token_lists_its_pixels_row_by_row():
    latent = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(1, 2, 4, 6, 3)
    tokens = patchify(latent)
    assert tokens.shape == (1, 2 * 2 * 3, 12)
    t, i, j = 1, 0, 2  # token 1*6 + 0*3 + 2
    want = np.asarray(latent)[0, t, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].ravel()
    np.testing.assert_array_equal(tokens[0, 8], want)
    np.testing.assert_array_equal(unpatchify(tokens, (2, 2, 3)), latent)


def test_odd_latents_are_refused():
    with pytest.raises(ValueError, match="multiples of 16 pixels"):
        patchify(jnp.zeros((1, 1, 3, 4, 16)))


def test_tokens_of_two_latents_join_into_tokens_of_both():
    rng = np.random.default_rng(0)
    noisy, given = (jnp.asarray(rng.random((1, 2, 4, 6, c)), jnp.float32) for c in (3, 2))
    want = patchify(jnp.concatenate([noisy, given], axis=-1))
    np.testing.assert_array_equal(join_channels(patchify(noisy), patchify(given)), want)


def test_kept_patches_go_out_and_back():
    patches = jnp.arange(2 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 3)
    index = jnp.array([[3, 1, -1], [0, -1, -1]])
    kept = gather_kept(patches, index)
    np.testing.assert_array_equal(kept[0], [patches[0, 3], patches[0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(kept[1, 1:], np.zeros((2, 3)))
    back = scatter_kept(patches, -kept, index)
    want = np.array(patches)
    want[[0, 0, 1], [3, 1, 0]] *= -1
    np.testing.assert_array_equal(back, want)
