"""The light coder in training: its latents, and its frames of what the decoder gets to decode.

The decoder gets, sample by sample:

- Without a transformer, latents of encoders. A fraction comes from the light encoder, the rest from
  the full one; a fraction is of the upscaled input, the rest of the truth; all get noise. The
  gradient stops at them: the encoder learns latents, not pixels.
- With a one-step transformer, what that makes of the condition, composited as in inference. A
  fraction of the conditions comes from the light encoder, and the gradient goes back to it.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.data.batch import Batch
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.params import Params, bind
from skipsr_jax.models.vae import VAE
from skipsr_jax.training.losses.composited import composite, composited_latents
from skipsr_jax.training.losses.decoded import DecodedClips
from skipsr_jax.training.losses.flow import one_step
from skipsr_jax.training.losses.reconstruction import decode
from skipsr_jax.training.packed import Latents, kept_patches
from skipsr_jax.training.pixels import patches_to_pixels, signed, unit, upscaled
from skipsr_jax.training.stage import Metrics, Preview
from skipsr_jax.types import Bool, Float


@dataclasses.dataclass(frozen=True)
class DecoderInputs:
    """Which latents the decoder gets.

    Attributes:
      own_share: fraction of the samples with latents of the light encoder.
      low_quality_share: fraction with latents of the upscaled input; not read with a transformer.
      noise: largest standard deviation of the noise on scaled latents; not read with a transformer.
      condition_noise: level of the noise on the transformer's condition, 0 to 1.
    """

    own_share: float = 0.5
    low_quality_share: float = 0.25
    noise: float = 0.2
    condition_noise: float = 0.0


@dataclasses.dataclass(frozen=True)
class CoderNetworks:
    """The networks as shapes, and what is computed with them.

    ``params`` hold the parameters of all that a function runs, ``vae``, ``light_coder``, ``dit``
    and ``text``, whether they are trained or not. Latents are scaled.

    Attributes:
      inputs: what the decoder gets.
      light: the light coder.
      vae: the full one; None where its latents are not needed, which takes a transformer.
      transformer: of one step; None: the decoder gets latents of encoders.
    """

    inputs: DecoderInputs
    light: LightCoder
    vae: VAE | None
    transformer: DiT | None

    def encoded(self, params: Params, batch: Batch) -> tuple[Latents, Latents]:
        """The light encoder's latents of the true clips and of the upscaled inputs.

        Those of the true clips are () without a ``vae``, where nothing reads them.
        """
        light, scale = bind(self.light, params["light_coder"]), self.light.config.scaling_factor
        hr_latents, lr_latents = [], []
        for hr, lr in zip(batch.hr, batch.lr, strict=True):
            frames = upscaled(lr, hr.shape[2:4])
            frames = jnp.concatenate([signed(hr), frames]) if self.vae else frames
            latents = light.encode(frames)[0].mean * scale
            if self.vae:
                truth, latents = jnp.split(latents, 2)
                hr_latents.append(truth)
            lr_latents.append(latents)
        return tuple(hr_latents), tuple(lr_latents)

    def decoded(
        self, params: Params, batch: Batch, own: tuple[Latents, Latents], teacher: bool, key: Array
    ) -> list[DecodedClips]:
        """The light decoder's frames, of latents drawn as ``inputs`` says, for each shape.

        Args:
          params: see the class.
          batch: with the latents of the full encoder, if there is one.
          own: what ``encoded`` returns.
          teacher: whether the full decoder makes frames too: of the full encoder's latents where
            the light decoder gets latents of encoders, else of the same latents.
          key: of what is drawn.
        """
        make = self._of_encoders if self.transformer is None else self._of_transformer
        return make(params, batch, own, teacher, key)

    def _of_encoders(self, params, batch, own, teacher, key) -> list[DecodedClips]:
        light, clips = bind(self.light, params["light_coder"]), []
        full = batch.hr_latents, batch.lr_latents
        for number, (hr, lr) in enumerate(zip(batch.hr, batch.lr, strict=True)):
            which, whose, level, noise = jax.random.split(jax.random.fold_in(key, number), 4)
            truth = signed(hr)
            upscaled_input = upscaled(lr, truth.shape[2:4])
            is_low = _chosen(which, len(truth), self.inputs.low_quality_share)
            is_own = _chosen(whose, len(truth), self.inputs.own_share)
            of_full, of_light = (
                jnp.where(is_low, low[number], high[number]) for high, low in (full, own)
            )
            latents = jnp.where(is_own, jax.lax.stop_gradient(of_light), of_full)
            deviation = self.inputs.noise * jax.random.uniform(level, is_low.shape)
            latents = latents + deviation * jax.random.normal(noise, latents.shape)
            frames = decode(light, latents / self.light.config.scaling_factor, upscaled_input)
            clips.append(
                DecodedClips(
                    frames, truth, upscaled_input, jnp.ones((*frames.shape[:4], 1), bool), latents,
                    self._teacher_frames(params, of_full, upscaled_input) if teacher else None,
                )
            )  # fmt: skip
        return clips

    def _of_transformer(self, params, batch, own, teacher, key) -> list[DecodedClips]:
        whose, noise, level = jax.random.split(key, 3)
        conditions = own[1]
        if self.vae is not None:
            conditions = []
            for number, (x, y) in enumerate(zip(batch.lr_latents, own[1], strict=True)):
                is_own = _chosen(jax.random.fold_in(whose, number), len(x), self.inputs.own_share)
                conditions.append(jnp.where(is_own, y, x))
        x0 = self._refined(params, tuple(conditions), batch, (noise, level))
        light, clips = bind(self.light, params["light_coder"]), []
        for refined, condition, keep, hr, lr in zip(
            x0, conditions, kept_patches(batch.plan, x0), batch.hr, batch.lr, strict=True
        ):
            truth = signed(hr)
            upscaled_input = upscaled(lr, truth.shape[2:4])
            frames, kept = composite(light, refined, condition, keep, upscaled_input)
            latents = composited_latents(refined, condition, keep)
            clips.append(
                DecodedClips(
                    frames, truth, upscaled_input, kept, latents,
                    self._teacher_frames(params, latents, upscaled_input) if teacher else None,
                )
            )  # fmt: skip
        return clips

    def _refined(
        self, params: Params, conditions: Latents, batch: Batch, keys: tuple[Array, Array]
    ) -> Latents:
        """What the transformer makes of the conditions in one step; noise in skipped patches."""
        dit, level = bind(self.transformer, params["dit"]), self.inputs.condition_noise
        return one_step(dit, params["text"], conditions, batch, level, keys)[0]

    def _teacher_frames(
        self, params: Params, latents: Array, upscaled_input: Array
    ) -> Float[Array, "b f h w 3"]:
        """The full decoder's frames, as constants."""
        latents = jax.lax.stop_gradient(latents) / self.vae.config.scaling_factor
        return decode(bind(self.vae, params["vae"]), latents, upscaled_input)

    def latent_effect(self, params: Params, clips: Sequence[DecodedClips]) -> Metrics:
        """How much the frames depend on the latents that were decoded: 0 for a decoder that works
        on the upscaled input alone.

        It is the root mean square of the change of the first sample's frames when its latents are
        replaced by zeros, the mean of latents, as a fraction of that of what the decoder adds to
        the upscaled input; 0 where it adds nothing yet. The mean over the shapes; a constant.
        """
        light, effects = bind(self.light, jax.lax.stop_gradient(params["light_coder"])), []
        for of_shape in clips:
            first = jax.tree.map(lambda x: jax.lax.stop_gradient(x[:1]), of_shape)
            without = decode(light, jnp.zeros_like(first.latents), first.upscaled_input)
            change = jnp.where(first.kept, first.frames - without, 0.0)
            added = first.frames - first.upscaled_input
            whole = jnp.maximum(jnp.square(added).sum(), 1e-12)
            effects.append(jnp.sqrt(jnp.square(change).sum() / whole))
        return {"latent_effect": sum(effects) / len(effects)}

    def preview(self, params: Params, batch: Batch, key: Array) -> Preview:
        """What the light coder makes of its own latents: without a transformer of those of the
        truth, else of what the transformer makes of those of the upscaled input."""
        light = bind(self.light, params["light_coder"])
        hr_latents, lr_latents = self.encoded(params, batch)
        inputs = [upscaled(lr, hr.shape[2:4]) for lr, hr in zip(batch.lr, batch.hr, strict=True)]
        if self.transformer is None:
            frames, scale = [], self.light.config.scaling_factor
            for latents, keep, upscaled_input in zip(hr_latents, batch.mask, inputs, strict=True):
                decoded = decode(light, latents / scale, upscaled_input)
                frames.append(unit(jnp.where(patches_to_pixels(keep), decoded, upscaled_input)))
            return Preview(tuple(frames), batch.mask)
        noise, level = jax.random.split(key)
        x0 = self._refined(params, lr_latents, batch, (noise, level))
        keep = kept_patches(batch.plan, x0)
        parts = zip(x0, lr_latents, keep, inputs, strict=True)
        return Preview(tuple(unit(composite(light, *part)[0]) for part in parts), keep)


def _chosen(key: Array, samples: int, fraction: float) -> Bool[Array, "b 1 1 1 1"]:
    """This fraction of the samples, at random."""
    return jax.random.uniform(key, (samples, 1, 1, 1, 1)) < fraction


def with_equal_frames(light_coder: Params) -> Params:
    """The parameters with the same weights for both frames that one of the 1/4 level becomes.

    ``to_half`` makes both, with channels of (2 x 2 pixels, 2 frames, features). Weights that are
    drawn apart stay apart without need, and still parts flicker: on the tiny model's clips the
    change from frame to frame there is ten times smaller with equal ones, at the same PSNR.
    """

    def equal(x: Array) -> Array:
        frames = x.reshape(*x.shape[:-1], 4, 2, x.shape[-1] // 8)
        return jnp.broadcast_to(frames.mean(-2, keepdims=True), frames.shape).reshape(x.shape)

    decoder = light_coder["decoder"]
    to_half = jax.tree.map(equal, decoder["to_half"])
    return light_coder | {"decoder": decoder | {"to_half": to_half}}


def latent_error(
    own: tuple[Latents, Latents], full: tuple[Latents, Latents]
) -> tuple[Float[Array, ""], Metrics]:
    """The mean squared error of the light encoder's latents, divided by the variance of the full
    one's; the mean of those of the truth (first) and of the upscaled input, and both as metrics."""
    metrics = {}
    for name, found, wanted in zip(("latent_truth", "latent_input"), own, full, strict=True):
        size = sum(x.size for x in wanted)
        mean = sum(x.sum() for x in wanted) / size
        variance = sum(jnp.square(x - mean).sum() for x in wanted) / size
        pairs = zip(found, wanted, strict=True)
        metrics[name] = sum(jnp.square(x - y).sum() for x, y in pairs) / size / variance
    return sum(metrics.values()) / len(metrics), metrics
