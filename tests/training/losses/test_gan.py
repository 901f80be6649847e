"""The losses of discriminator and generator against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.training.losses.gan import (
    discriminator_loss,
    generator_loss,
    mean_of,
    perturbation_penalty,
)

RNG = np.random.default_rng(0)
REAL, FAKE = RNG.normal(0, 3, (2, 4, 3)).astype(np.float32)


def log_sigmoid(x):
    return -np.log1p(np.exp(-x.astype(np.float64)))


def test_non_saturating_losses_are_negative_log_likelihoods():
    # Of "real" for true samples, of "not real" for generated ones; the generator wants "real".
    wanted = -(log_sigmoid(REAL) + np.log(1 - 1 / (1 + np.exp(-FAKE.astype(np.float64)))))
    found = discriminator_loss(jnp.asarray(REAL), jnp.asarray(FAKE), "non_saturating")
    assert float(found) == pytest.approx(wanted.mean(), rel=1e-5)
    found = generator_loss(jnp.asarray(REAL), jnp.asarray(FAKE), "non_saturating")
    assert float(found) == pytest.approx(-log_sigmoid(FAKE).mean(), rel=1e-5)


def test_relativistic_losses_compare_each_sample_with_its_own_truth():
    found = discriminator_loss(jnp.asarray(REAL), jnp.asarray(FAKE), "relativistic")
    assert float(found) == pytest.approx(-log_sigmoid(REAL - FAKE).mean(), rel=1e-5)
    found = generator_loss(jnp.asarray(REAL), jnp.asarray(FAKE), "relativistic")
    assert float(found) == pytest.approx(-log_sigmoid(FAKE - REAL).mean(), rel=1e-5)
    moved = discriminator_loss(jnp.asarray(REAL + 5), jnp.asarray(FAKE + 5), "relativistic")
    unmoved = discriminator_loss(jnp.asarray(REAL), jnp.asarray(FAKE), "relativistic")
    assert float(moved) == pytest.approx(float(unmoved), rel=1e-5)


def test_large_logits_stay_finite():
    for pairing in ("relativistic", "non_saturating"):
        big = jnp.full((1, 1), 1e4)
        assert float(discriminator_loss(-big, big, pairing)) == pytest.approx(2e4)
        assert np.isfinite(float(generator_loss(big, -big, pairing)))


def test_the_penalty_is_the_mean_square_of_the_change():
    found = perturbation_penalty(jnp.asarray(REAL), jnp.asarray(FAKE))
    assert float(found) == pytest.approx(np.square(REAL - FAKE).mean(), rel=1e-5)
    assert float(perturbation_penalty(jnp.asarray(REAL), jnp.asarray(REAL))) == 0


def test_only_chosen_logits_count():
    real, fake = jnp.asarray(REAL), jnp.asarray(FAKE)
    chosen = jnp.zeros(REAL.shape, bool).at[0, 0].set(True)
    for loss in (discriminator_loss, generator_loss):
        for pairing in ("relativistic", "non_saturating"):
            alone = loss(real[:1, :1], fake[:1, :1], pairing)
            assert float(loss(real, fake, pairing, chosen)) == pytest.approx(float(alone))
            assert float(loss(real, fake, pairing, ~chosen)) != pytest.approx(float(alone))
    assert float(mean_of(real, jnp.zeros(REAL.shape, bool))) == 0
