"""The reconstruction loss: its parts by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.training.losses import reconstruction


def test_charbonnier_is_l1_with_a_smooth_minimum():
    error = jnp.array([-0.5, 0.0, 0.25])
    np.testing.assert_allclose(reconstruction.charbonnier(error), [0.5, 1e-3, 0.25], atol=3e-6)


def test_gradients_are_means_over_the_axes_that_there_are():
    ramp = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (1, 1, 4, 4, 3))
    picture = jnp.swapaxes(ramp, 2, 3)
    assert reconstruction.gradient_loss(picture) == pytest.approx((0 + 1) / 2)
    clip = jnp.concatenate([picture, picture + 2.0], axis=1)
    assert reconstruction.gradient_loss(clip) == pytest.approx((0 + 1 + 2) / 3)


def test_the_spectrum_of_a_constant_error_is_its_mean():
    error = jnp.full((1, 1, 4, 4, 3), 0.5)
    assert reconstruction.frequency_loss(error) == pytest.approx(0.5 * 4 / (4 * 3))
    total, parts = reconstruction.reconstruction_loss(error, 0.5, 2.0)
    assert total == pytest.approx(float(parts["charbonnier"] + 2.0 * parts["frequency"]))
