"""Losses of the frames that a light decoder made: to the truth, a teacher, a discriminator.

Everything is computed within the pixels that the decoder answers for (``DecodedClips.kept``); the
others have the upscaled input in frames and truth alike. A loss over several shapes is the mean
over their pixels.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.geometry import SPACE_FACTOR
from skipsr_jax.models.discriminator import PatchDiscriminator
from skipsr_jax.training.losses.gan import (
    Pairing,
    discriminator_loss,
    generator_loss,
    mean_of,
    perturbation_penalty,
)
from skipsr_jax.training.losses.reconstruction import reconstruction_loss, temporal_loss
from skipsr_jax.training.pixels import psnr
from skipsr_jax.training.stage import Metrics
from skipsr_jax.types import Bool, Float


class DecodedClips(NamedTuple):
    """Decoded clips of one shape, in about [-1, 1], and what they are compared with.

    Attributes:
      frames: composited; pixels that are not kept have the upscaled input.
      truth: the true frames.
      upscaled_input: what the decoder added to.
      kept: the pixels that the decoder answers for.
      latents: what was decoded, scaled.
      teacher: the full decoder's frames, or None.
    """

    frames: Float[Array, "b f h w 3"]
    truth: Float[Array, "b f h w 3"]
    upscaled_input: Float[Array, "b f h w 3"]
    kept: Bool[Array, "b f h w 1"]
    latents: Float[Array, "b t h8 w8 c"]
    teacher: Float[Array, "b f h w 3"] | None = None

    @property
    def real(self) -> Float[Array, "b f h w 3"]:
        """The truth in kept pixels, the upscaled input in the others, as ``frames`` have it."""
        return jnp.where(self.kept, self.truth, self.upscaled_input)


def _mean_over_shapes(
    clips: Sequence[DecodedClips], loss: Callable[[DecodedClips], tuple[Array, Metrics]]
) -> tuple[Float[Array, ""], Metrics]:
    """The loss and its metrics of each shape, averaged with its pixels as weights."""
    weights = np.array([of_shape.truth.size for of_shape in clips])
    found = [loss(of_shape) for of_shape in clips]
    return jax.tree.map(lambda *parts: jnp.average(jnp.stack(parts), weights=weights), *found)


def pixel_loss(
    clips: Sequence[DecodedClips],
    gradient: float,
    frequency: float,
    temporal: float,
    teacher: float,
) -> tuple[Float[Array, ""], Metrics]:
    """Reconstruction loss to the truth, ``teacher`` times that to the full decoder's frames, and
    ``temporal`` times the temporal loss to the truth; with PSNR and crispness.

    ``gradient``, ``frequency``: weights in both (``losses.reconstruction``).
    """

    def of_shape(clips: DecodedClips) -> tuple[Array, Metrics]:
        error = jnp.where(clips.kept, clips.frames - clips.truth, 0.0)
        total, metrics = reconstruction_loss(error, gradient, frequency)
        metrics |= {
            "temporal": temporal_loss(error),
            "psnr": psnr(clips.frames, clips.truth).mean(),
            "psnr_upscaled": psnr(clips.upscaled_input, clips.truth).mean(),
            "psnr_kept": psnr(clips.frames, clips.truth, clips.kept).mean(),
            "psnr_kept_upscaled": psnr(clips.upscaled_input, clips.truth, clips.kept).mean(),
            "crispness": _crispness(clips),
        }
        total = total + temporal * metrics["temporal"]
        if clips.teacher is not None:
            error = jnp.where(clips.kept, clips.frames - clips.teacher, 0.0)
            metrics["teacher"], _ = reconstruction_loss(error, gradient, frequency)
            metrics["psnr_teacher"] = psnr(clips.teacher, clips.truth).mean()
            total = total + teacher * metrics["teacher"]
        return total, metrics

    return _mean_over_shapes(clips, of_shape)


def _crispness(clips: DecodedClips) -> Float[Array, ""]:
    """The metric of ``evaluation.measures.crispness`` in kept pixels, of R, G and B: how strongly
    horizontal neighbours differ, over the same of the truth. Below 1 for soft frames."""
    both = clips.kept[:, :, :, 1:] & clips.kept[:, :, :, :-1]

    def steps(frames: Float[Array, "b f h w 3"]) -> Float[Array, ""]:
        return jnp.where(both, jnp.abs(jnp.diff(jnp.clip(frames, -1, 1), axis=3)), 0.0).sum()

    return steps(clips.frames) / jnp.maximum(steps(clips.truth), 1e-6)


def patch_discriminator_loss(
    discriminator: PatchDiscriminator,
    clips: Sequence[DecodedClips],
    pairing: Pairing,
    penalty: float,
    sigma: float,
    key: Array,
) -> tuple[Float[Array, ""], Metrics]:
    """How badly the discriminator separates true from decoded frames, each block of pixels with its
    own logit, and ``penalty`` times the perturbation penalty of both.

    Logits of skipped blocks, which are equal on both sides, play a part in the penalty alone.
    ``sigma``: standard deviation of the perturbation, in pixels of [-1, 1]. Frames are constants.
    """
    keys = iter(jax.random.split(key, 2 * len(clips)))

    def of_shape(clips: DecodedClips) -> tuple[Array, Metrics]:
        latents = jax.lax.stop_gradient(clips.latents)
        inputs = [clips.real, jax.lax.stop_gradient(clips.frames)]
        if penalty:
            inputs += [x + sigma * jax.random.normal(next(keys), x.shape) for x in inputs]
        logits = [_logits(discriminator, x, latents) for x in inputs]
        real, fake = logits[:2]
        kept = _kept_blocks(clips)
        total = discriminator_loss(real, fake, pairing, kept)
        metrics = {
            "discriminator": total,
            "logit_real": mean_of(real, kept),
            "logit_fake": mean_of(fake, kept),
            "told_apart_percent": 100 * mean_of(real > fake, kept),
        }
        if penalty:
            pairs = zip(logits[:2], logits[2:], strict=True)
            metrics["penalty"] = sum(perturbation_penalty(*pair) for pair in pairs)
            total = total + penalty * metrics["penalty"]
        return total, metrics

    return _mean_over_shapes(clips, of_shape)


def patch_generator_loss(
    discriminator: PatchDiscriminator, clips: Sequence[DecodedClips], pairing: Pairing
) -> tuple[Float[Array, ""], Metrics]:
    """How well the decoded frames pass for true ones. Latents are constants."""

    def of_shape(clips: DecodedClips) -> tuple[Array, Metrics]:
        latents = jax.lax.stop_gradient(clips.latents)
        real, fake = (_logits(discriminator, x, latents) for x in (clips.real, clips.frames))
        loss = generator_loss(real, fake, pairing, _kept_blocks(clips))
        return loss, {"adversarial": loss}

    return _mean_over_shapes(clips, of_shape)


def _kept_blocks(clips: DecodedClips) -> Bool[Array, "b logits"]:
    """Whether each logit's block of pixels is kept; a patch has whole blocks."""
    return clips.kept[:, :, ::SPACE_FACTOR, ::SPACE_FACTOR, 0].reshape(len(clips.kept), -1)


def _logits(
    discriminator: PatchDiscriminator,
    frames: Float[Array, "b f h w 3"],
    latents: Float[Array, "b t h8 w8 c"],
) -> Float[Array, "b logits"]:
    with jax.named_scope("discriminator"):
        return discriminator(frames, latents).reshape(len(frames), -1)
