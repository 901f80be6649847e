"""The mask predictors: size, shape, stride and what they refuse."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.models.params import abstract, bind, count, to_dict
from skipsr_jax.models.predictor import (
    PAPER,
    TINY,
    MaskPredictor,
    PixelMaskPredictor,
    PredictorConfig,
    make_predictor,
)


def _build(config):
    return lambda rngs: make_predictor(config, rngs=rngs)


@pytest.fixture(scope="module")
def small(fill):
    module, params = fill(_build(PredictorConfig(width=6)))
    return jax.jit(lambda latent: bind(module, params)(latent))


def test_sizes():
    assert count(to_dict(abstract(_build(PAPER)))) == 22_974_193  # the paper: 23 M
    assert count(to_dict(abstract(_build(TINY)))) * 2 < 0.5e6  # bytes in bfloat16


@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 3, 4, 6), (1, 5, 10, 2)])
def test_one_logit_per_patch(small, shape):
    b, t, h, w = shape
    logits = small(jnp.ones((*shape, 16)))
    assert logits.shape == (b, t, h // 2, w // 2)
    assert logits.dtype == jnp.float32


@pytest.mark.parametrize("width", [16, 6, 1, 130])
def test_four_plain_convolutions(fill, width):
    module, params = fill(_build(PredictorConfig(width=width)))
    x = latent = jax.random.normal(jax.random.key(0), (2, 3, 6, 10, 16))
    for i in range(4):
        layer = bind(module, params).layers[i]
        x = jax.lax.conv_general_dilated(
            jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)), mode="edge"),
            layer.kernel[...],
            (1, 2, 2) if i == 0 else (1, 1, 1),
            ((0, 0), (1, 1), (1, 1)),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        x = x + layer.bias[...]
        x = jax.nn.relu(x) if i < 3 else x
    np.testing.assert_allclose(bind(module, params)(latent), x[..., 0], rtol=1e-4, atol=1e-5)


def test_an_image_looks_like_a_still_video(small):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 6, 6, 16)), jnp.float32)
    video = jnp.repeat(image, 4, axis=1)
    np.testing.assert_allclose(small(video)[:, 1:2], small(image), atol=1e-5)


def test_reach_of_one_latent(small):
    """Each layer sees one frame and one patch further; the first has stride 2."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 11, 22, 22, 16)), jnp.float32)
    reached = jnp.abs(small(x.at[:, 5, 10, 10].add(10.0)) - small(x))[0] > 1e-6
    t, h, w = (np.unique(axis) for axis in np.nonzero(reached))
    assert t.min() >= 1 and t.max() <= 9 and len(t) > 1
    assert h.min() >= 2 and h.max() <= 8 and w.min() >= 2 and w.max() <= 8
    assert reached[5, 5, 5]


def test_refused(small):
    with pytest.raises(ValueError, match=r"3 x 4; both must be even.*16 pixels"):
        small(jnp.ones((1, 1, 3, 4, 16)))
    with pytest.raises(ValueError, match="width is 0"):
        PredictorConfig(width=0)
    with pytest.raises(ValueError, match="filters is 0"):
        PredictorConfig(filters=0)


PIXELS = PredictorConfig(width=6, space="pixels", filters=3)


@pytest.fixture(scope="module")
def on_pixels(fill):
    module, params = fill(_build(PIXELS))
    return jax.jit(lambda frames: bind(module, params)(frames))


def test_the_config_says_which():
    assert isinstance(abstract(_build(PIXELS)), PixelMaskPredictor)
    assert isinstance(abstract(_build(TINY)), MaskPredictor)
    small = count(to_dict(abstract(_build(dataclasses.replace(TINY, space="pixels")))))
    assert small * 2 < 0.5e6  # bytes in bfloat16


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 5, 8, 12)])
def test_one_logit_for_4_pixels_and_4_frames(on_pixels, shape):
    b, f, h, w = shape
    logits = on_pixels(jnp.ones((*shape, 3)))
    assert logits.shape == (b, (f - 1) // 4 + 1, h // 4, w // 4)
    assert logits.dtype == jnp.float32


def test_mirrored_pictures_have_mirrored_logits(on_pixels):
    frames = jax.random.uniform(jax.random.key(3), (1, 5, 8, 12, 3))
    logits = on_pixels(frames)
    assert float(logits.std()) > 1e-3
    for axes in ((2,), (3,), (2, 3)):
        np.testing.assert_allclose(
            on_pixels(jnp.flip(frames, axes)), jnp.flip(logits, axes), atol=1e-5
        )
    turned = on_pixels(jnp.flip(frames, 1))  # time has a direction
    assert float(jnp.abs(turned - jnp.flip(logits, 1)).max()) > 1e-3


def test_pixels_refused(on_pixels):
    with pytest.raises(ValueError, match=r"4 frames of 8 x 8.*4k \+ 1"):
        on_pixels(jnp.ones((1, 4, 8, 8, 3)))
    with pytest.raises(ValueError, match=r"5 frames of 8 x 6.*multiples of 4 pixels"):
        on_pixels(jnp.ones((1, 5, 8, 6, 3)))
