import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.tokens.patches import patchify, unpatchify


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
