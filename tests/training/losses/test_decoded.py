"""Losses of decoded frames: by hand, within kept pixels, and over shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.discriminator import PatchDiscriminator
from skipsr_jax.training.losses.decoded import (
    DecodedClips,
    patch_discriminator_loss,
    patch_generator_loss,
    pixel_loss,
)
from skipsr_jax.training.losses.reconstruction import reconstruction_loss

RNG = np.random.default_rng(0)


def clips(frames=5, error=0.1, kept=None, teacher=None):
    """A clip of 16 x 16 whose frames have a constant error in kept pixels."""
    truth = RNG.uniform(-0.5, 0.5, (1, frames, 16, 16, 3)).astype(np.float32)
    shown = np.zeros_like(truth)
    kept = np.ones((1, frames, 16, 16, 1), bool) if kept is None else kept
    latents = RNG.normal(size=(1, (frames - 1) // 4 + 1, 2, 2, 4)).astype(np.float32)
    teacher = None if teacher is None else truth + np.float32(teacher)
    parts = (np.where(kept, truth + np.float32(error), shown), truth, shown, kept, latents)
    return jax.tree.map(jnp.asarray, DecodedClips(*parts, teacher))


def test_the_loss_has_truth_teacher_and_successive_frames():
    error = jnp.full((1, 5, 16, 16, 3), 0.1)
    to_truth, _ = reconstruction_loss(error, 0.5, 0.05)
    to_teacher_frames, _ = reconstruction_loss(error - 0.3, 0.5, 0.05)
    total, metrics = pixel_loss([clips(teacher=0.3)], 0.5, 0.05, 2.0, 0.25)
    assert float(total) == pytest.approx(float(to_truth + 0.25 * to_teacher_frames), rel=1e-4)
    assert float(metrics["temporal"]) == pytest.approx(0, abs=1e-6)
    assert float(metrics["psnr"]) == pytest.approx(-20 * np.log10(0.05), rel=1e-4)

    moving = clips()
    later = moving.frames.at[:, 3].add(0.2)  # one frame of five is off: two differences of four
    _, metrics = pixel_loss([moving._replace(frames=later)], 0.5, 0.05, 2.0, 0.25)
    assert float(metrics["temporal"]) == pytest.approx(0.2 * 2 / 4, rel=1e-4)
    assert "teacher" not in metrics


def test_crispness_is_that_of_kept_pixels():
    kept = np.zeros((1, 5, 16, 16, 1), bool)
    kept[:, :, :8] = True
    half = clips(kept=kept)
    soft = half._replace(frames=jnp.where(half.kept, half.truth / 2, 5.0))
    _, metrics = pixel_loss([soft], 0.0, 0.0, 0.0, 0.0)
    assert float(metrics["crispness"]) == pytest.approx(0.5, rel=1e-4)


def test_skipped_pixels_play_no_part():
    kept = np.zeros((1, 5, 16, 16, 1), bool)
    kept[:, :, :8] = True
    half = clips(kept=kept)
    total, metrics = pixel_loss([half], 0.0, 0.0, 0.0, 0.0)
    assert float(total) == pytest.approx((np.hypot(0.1, 1e-3) + 1e-3) / 2, rel=1e-4)
    assert float(metrics["psnr_kept"]) == pytest.approx(-20 * np.log10(0.05), rel=1e-4)
    np.testing.assert_array_equal(half.real[:, :, 8:], half.upscaled_input[:, :, 8:])
    np.testing.assert_array_equal(half.real[:, :, :8], half.truth[:, :, :8])


def test_shapes_count_by_their_pixels():
    both = [clips(5, 0.1), clips(1, 0.4)]
    alone = [float(pixel_loss([x], 0.5, 0.05, 0.0, 0.0)[0]) for x in both]
    found = float(pixel_loss(both, 0.5, 0.05, 0.0, 0.0)[0])
    assert found == pytest.approx((5 * alone[0] + alone[1]) / 6, rel=1e-5)


@pytest.mark.slow
def test_the_coder_alone_moves_the_generator_loss_and_the_discriminator_its_own():
    model = PatchDiscriminator(2, 4, rngs=nnx.Rngs(0))
    x, key = clips(), jax.random.key(0)

    def of_generator(frames):
        return patch_generator_loss(model, [x._replace(frames=frames)], "relativistic")[0]

    def of_discriminator(frames):
        found = [x._replace(frames=frames)]
        return patch_discriminator_loss(model, found, "relativistic", 1.0, 0.1, key)[0]

    assert np.abs(jax.grad(of_generator)(x.frames)).max() > 0
    np.testing.assert_array_equal(jax.grad(of_discriminator)(x.frames), 0)
    args = ([x], "relativistic")
    total, metrics = patch_discriminator_loss(model, *args, 3.0, 0.1, key)
    assert float(metrics["penalty"]) > 0
    assert float(total) == pytest.approx(float(metrics["discriminator"] + 3 * metrics["penalty"]))
    total, metrics = patch_discriminator_loss(model, *args, 0.0, 0.1, key)
    assert total == metrics["discriminator"] and "penalty" not in metrics


def test_skipped_blocks_play_no_part_for_a_discriminator():
    kept = np.zeros((1, 5, 16, 16, 1), bool)
    kept[:, :, :, :8] = True
    half = clips(kept=kept)
    model = PatchDiscriminator(2, 4, rngs=nnx.Rngs(0))
    args = (model, [half], "relativistic")
    total, metrics = patch_discriminator_loss(*args, 0.0, 0.1, jax.random.key(0))
    real, fake = (model(x, half.latents)[..., 0] for x in (half.real, half.frames))  # left blocks
    assert float(total) == pytest.approx(float(jax.nn.softplus(fake - real).mean()), rel=1e-5)
    assert float(metrics["told_apart_percent"]) == pytest.approx(100 * float((real > fake).mean()))
    assert float(metrics["logit_real"]) == pytest.approx(float(real.mean()), rel=1e-4)
    of_generator, _ = patch_generator_loss(*args)
    expected = jax.nn.softplus(real - fake).mean()
    assert float(of_generator) == pytest.approx(float(expected), rel=1e-5)
