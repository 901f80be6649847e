"""Each token gets the modulation of its sample, by selections or by a gather."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.models.dit import modulation
from skipsr_jax.models.dit.modulation import ATTENTION, FEED_FORWARD, per_token

RNG = np.random.default_rng(0)
EMBEDDING = jnp.asarray(RNG.normal(size=(2, 3, 6 * 8)).astype(np.float32))
SAMPLE = jnp.asarray(RNG.integers(0, 3, (2, 20)))


@pytest.mark.parametrize("sublayer", [ATTENTION, FEED_FORWARD])
@pytest.mark.parametrize("most", [1, 16])
def test_every_token_has_the_numbers_of_its_sample(sublayer, most, monkeypatch):
    monkeypatch.setattr(modulation, "MOST_SELECTED", most)
    found = per_token(EMBEDDING, SAMPLE, sublayer)
    by_channel = np.asarray(EMBEDDING).reshape(2, 3, 8, 2, 3)
    for i, part in enumerate(found):
        for pack in range(2):
            expected = by_channel[pack][np.asarray(SAMPLE[pack]), :, sublayer, i]
            np.testing.assert_array_equal(part[pack], expected)


def test_both_ways_have_one_gradient(monkeypatch):
    weights = jnp.asarray(RNG.normal(size=(3, 2, 20, 8)).astype(np.float32))

    def gradient():
        def loss(embedding):
            return sum(
                jnp.sum(w * m)
                for w, m in zip(weights, per_token(embedding, SAMPLE, 0), strict=True)
            )

        return jax.grad(loss)(EMBEDDING)

    selected = gradient()
    monkeypatch.setattr(modulation, "MOST_SELECTED", 1)
    np.testing.assert_allclose(selected, gradient(), atol=1e-5)


def test_one_sample_is_not_repeated_for_its_tokens():
    assert per_token(EMBEDDING[:, :1], SAMPLE * 0, ATTENTION).gate.shape == (2, 1, 8)
