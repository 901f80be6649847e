"""Rotary positions: each platform's form of one rotation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.models.dit import rope


@pytest.mark.parametrize(("channels", "rotated"), [(128, 63), (128, 30), (6, 3)])
def test_both_forms_are_the_rotation_of_each_pair(channels, rotated):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, channels)).astype(np.float32)
    angles = rng.normal(size=(1, 5, rotated)).astype(np.float32)
    want = x.astype(np.float64)
    cos, sin = (f(angles.astype(np.float64))[:, :, None] for f in (np.cos, np.sin))
    a, b = want[..., : 2 * rotated : 2].copy(), want[..., 1 : 2 * rotated : 2].copy()
    want[..., : 2 * rotated : 2], want[..., 1 : 2 * rotated : 2] = (
        a * cos - b * sin,
        b * cos + a * sin,
    )
    x, angles = jnp.asarray(x), jnp.asarray(angles)
    np.testing.assert_allclose(rope.rotate(x, angles), want, atol=1e-6)
    padded = jnp.pad(angles, ((0, 0), (0, 0), (0, channels // 2 - rotated)))
    pairs, rolls = rope._rotated_pairs(x, padded), rope._rotated_channels(x, padded)
    np.testing.assert_allclose(rolls, want, atol=1e-6)
    np.testing.assert_array_equal(pairs, rolls)


def test_gradients_of_both_forms_agree():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 4, 2, 8)), jnp.float32)
    angles, weights = rng.normal(size=(1, 4, 4)), rng.normal(size=x.shape)
    gradients = [
        jax.grad(lambda x, form=form: (weights * form(x, jnp.asarray(angles))).sum())(x)
        for form in (rope._rotated_pairs, rope._rotated_channels)
    ]
    np.testing.assert_allclose(*gradients, atol=1e-6)
