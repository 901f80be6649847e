"""Stage ``adversarial``: a one-step model learns detail from a discriminator (SkipSR section 4.2).

Adversarial post-training, APT (Lin et al. 2025, arXiv 2501.08316), in the form that SeedVR2 gave it
for restoration (arXiv 2506.05301): the generator goes from pure noise to the clean latent in one
step; the discriminator, the same transformer with heads, takes a true or a generated latent without
noise, the condition, and a random timestep. In each step the discriminator is updated first, then
the generator.

  discriminator:  L_D(r, g) + r1 |D(x) - D(x + sigma eps)|^2 + r2 |D(y) - D(y + sigma eps)|^2
  generator:      adversarial L_G(r, g) + features |F(y) - F(x)| + latent |y - x| + pixels

with x the true latent, y the generated one, r = D(x), g = D(y), F the discriminator's tokens at
the depths of its heads, L_D and L_G as in ``losses.gan``. Invariant: everything but the pixel loss
is computed on kept tokens; what skipped ones hold has no effect.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.config import require, require_between, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.diffusion.schedule import TERMINAL
from skipsr_jax.diffusion.timesteps import shift_timestep
from skipsr_jax.errors import UserError
from skipsr_jax.models.discriminator import Discriminator, body_of
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.flops import BACKWARD, BACKWARD_FROZEN, dit_flops
from skipsr_jax.models.params import Params, abstract, bind, to_dict
from skipsr_jax.models.vae import VAE
from skipsr_jax.tokens.patches import join_channels
from skipsr_jax.training.frozen_vae import coding_flops, load_vae, with_latents
from skipsr_jax.training.losses.composited import composited_loss
from skipsr_jax.training.losses.flow import condition_tokens, one_step, text_tokens
from skipsr_jax.training.losses.gan import (
    Pairing,
    discriminator_loss,
    generator_loss,
    perturbation_penalty,
)
from skipsr_jax.training.packed import (
    Latents,
    by_pack,
    kept_tokens,
    mean_over_kept,
    of_tokens,
    skip_percent,
)
from skipsr_jax.training.previews import one_step_preview
from skipsr_jax.training.settings import Settings, TokenSettings
from skipsr_jax.training.stage import Metrics, Stage, Trainee, buffers, recipe_of
from skipsr_jax.training.transformer import (
    TEXTS,
    abstract_dit,
    bind_trained,
    cast_kernels,
    fresh_params,
)
from skipsr_jax.types import Float

DISTANCES = {"l1": jnp.abs, "l2": jnp.square}


@dataclasses.dataclass(frozen=True)
class AdversarialLoss(TokenSettings):
    """The section ``loss``: the two losses and their weights.

    They act on the tokens that ``TokenSettings`` selects.

    Attributes:
      pairing: how the losses compare true and generated samples: relativistic: each with the other;
        non_saturating: each alone.
      depths: layers after which a head of the discriminator reads the tokens, rising.
      discriminator_rate: learning rate of the discriminator, as a factor on the generator's.
      shift_image: factor that moves the discriminator's timesteps, else uniform, towards noise, for
        pictures.
      shift_video: the same factor for clips.
      r1: weight of the penalty on true samples; 0: not computed.
      r2: weight of the penalty on generated samples; 0: not computed.
      sigma_image: standard deviation of the penalties' perturbation of the latents of pictures.
      sigma_video: standard deviation of the penalties' perturbation of the latents of clips.
      adversarial: weight of the adversarial part of the generator's loss.
      features: weight of the distance of the discriminator's features in the generator's loss.
      latent: weight of the distance of latents in the generator's loss.
      feature_distance: how features are compared.
      pixel_weight: weight of the pixel loss; 0 decodes nothing.
      pixel_samples: how many samples are decoded, of each shape in a batch.
      gradient: weight of the error of gradients in the pixel loss.
      frequency: weight of the error of the spectrum in the pixel loss.
      condition_noise: level of the noise on the condition.
      train_text: whether the texts are trained too, or stay as init_from has them.
    """

    pairing: Pairing = "relativistic"
    depths: tuple[int, ...] = (2, 3, 4)
    discriminator_rate: float = 1.0
    shift_image: float = 1.0
    shift_video: float = 12.0
    r1: float = 100.0
    r2: float = 100.0
    sigma_image: float = 0.01
    sigma_video: float = 0.1
    adversarial: float = 1.0
    features: float = 1.0
    feature_distance: Literal["l1", "l2"] = "l1"
    latent: float = 1.0
    pixel_weight: float = 0.0
    pixel_samples: int = 1
    gradient: float = 0.5
    frequency: float = 0.05
    condition_noise: float = 0.0
    train_text: bool = True

    def __post_init__(self):
        super().__post_init__()
        require_between("discriminator_rate", self.discriminator_rate, 0, 1000)
        weights = ("r1", "r2", "adversarial", "features", "latent", "pixel_weight", "gradient")
        for name in (*weights, "frequency", "sigma_image", "sigma_video", "pixel_samples"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("shift_image", "shift_video"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0 (1: no shift)")
        require_between("condition_noise", self.condition_noise, 0, 1)


@dataclasses.dataclass(frozen=True)
class GanLosses:
    """The losses of discriminator and generator, as functions of latents.

    ``generator`` and ``discriminator`` are modules as shapes; every ``batch`` has latents.
    """

    config: AdversarialLoss
    generator: DiT
    discriminator: Discriminator

    def _generate(
        self, params: Params, batch: Batch, key: Array
    ) -> tuple[Latents, Float[Array, "b n condition_i"]]:
        """The latents after one step from pure noise, and the tokens of the condition."""
        noise, level = jax.random.split(key)
        dit = bind_trained(self.generator, params["dit"])
        generated, conditions = one_step(
            dit, params["text"], batch.lr_latents, batch, self.config.condition_noise,
            (noise, level),
        )  # fmt: skip
        return generated, condition_tokens(conditions, batch.plan)

    def _discriminator(self, params: Params) -> Discriminator:
        own = params["discriminator"]
        body = cast_kernels(own["body"], self.discriminator.dtype)
        return bind(self.discriminator, own | {"body": body})

    def _timesteps(self, batch: Batch, key: Array) -> Float[Array, "b k"]:
        """Timesteps for the discriminator: uniform, then shifted (APT, equations 6 and 7)."""
        factor = _by_kind(batch, self.config.shift_image, self.config.shift_video)
        uniform = jax.random.uniform(key, batch.negative.shape)
        return shift_timestep(uniform * TERMINAL, factor)

    def of_discriminator(
        self, params: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        """How badly the discriminator separates true from generated samples, and its penalties."""
        config, plan = self.config, batch.plan
        generation, times, noise = jax.random.split(key, 3)
        generated, conditions = self._generate(params, batch, generation)
        timestep = self._timesteps(batch, times)
        text = text_tokens(params["text"], batch.negative)

        def logits(tokens: Float[Array, "b n noisy_i"]) -> Float[Array, "b k"]:
            # What depends on no input would be computed for all layers ahead of the map, and
            # stored: modulations take six float32 arrays of all tokens a layer.
            alike = tokens, timestep, text, plan
            tokens, own_times, own_text, own_plan = jax.lax.optimization_barrier(alike)
            # Cast here, so that the gradients of the inputs are added in float32.
            discriminator = self._discriminator(params)
            patches = join_channels(tokens, conditions)
            return discriminator(patches, own_text, own_times, own_plan)[0]

        inputs = [kept_tokens(batch.hr_latents, plan), kept_tokens(generated, plan)]
        sigma = _by_kind(batch, config.sigma_image, config.sigma_video)
        sigma = of_tokens(sigma, plan)[..., None]
        penalties = {"r1": config.r1, "r2": config.r2}
        perturbed = {name: i for i, (name, weight) in enumerate(penalties.items()) if weight}
        for k, i in zip(jax.random.split(noise, 2), perturbed.values(), strict=False):
            inputs.append(inputs[i] + sigma * jax.random.normal(k, inputs[i].shape))
        # A map, so that one compiled pass serves all inputs, in the memory of one.
        with jax.named_scope("discriminator"):
            real, fake, *others = jax.lax.map(logits, jnp.stack(inputs))

        total = discriminator_loss(real, fake, config.pairing)
        metrics = {
            "discriminator": total,
            "logit_real": real.mean(),
            "logit_fake": fake.mean(),
            "told_apart_percent": 100 * jnp.mean(real > fake),
        }
        for (name, i), other in zip(perturbed.items(), others, strict=True):
            metrics[name] = perturbation_penalty((real, fake)[i], other)
            total = total + penalties[name] * metrics[name]
        return total, metrics

    def of_generator(
        self, params: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics, Latents]:
        """The generator's loss without the pixel loss, its parts, and the generated latents."""
        config, plan = self.config, batch.plan
        generation, times = jax.random.split(key)
        generated, conditions = self._generate(params, batch, generation)
        discriminator = self._discriminator(params)
        timestep = self._timesteps(batch, times)
        text = jax.lax.stop_gradient(text_tokens(params["text"], batch.negative))

        def discriminate(tokens: Float[Array, "b n noisy_i"]) -> tuple[Array, list[Array]]:
            with jax.named_scope("discriminator"):
                return discriminator(join_channels(tokens, conditions), text, timestep, plan)

        x, y = kept_tokens(batch.hr_latents, plan), kept_tokens(generated, plan)
        fake, fake_features = discriminate(y)
        real, real_features = discriminate(x)
        distance = DISTANCES[config.feature_distance]
        parts = {
            "adversarial": generator_loss(real, fake, config.pairing),
            "features": sum(
                mean_over_kept(distance(a.astype(jnp.float32) - b.astype(jnp.float32)), plan)
                for a, b in zip(fake_features, real_features, strict=True)
            )
            / len(fake_features),
            "latent": mean_over_kept(jnp.abs(y - x), plan),
        }
        total = sum(getattr(config, name) * part for name, part in parts.items())
        return total, parts | {"skip_percent": skip_percent(plan, batch.hr_latents)}, generated


def _by_kind(batch: Batch, image: float, video: float) -> Float[Array, "b k"]:
    """``image`` for samples of one frame, ``video`` for the others."""
    numbers = [jnp.full(len(x), image if x.shape[1] == 1 else video) for x in batch.hr_latents]
    return by_pack(numbers, len(batch.negative))


def gan_losses(settings: Settings, config: DiTConfig) -> GanLosses:
    """The losses for a generator of this config and a discriminator with the same body.

    Raises UserError when the depths of the heads do not fit the transformer.
    """
    loss_config, dtype = settings.loss, jnp.dtype(settings.dtype)
    try:
        discriminator = abstract(
            lambda rngs: Discriminator(config, loss_config.depths, rngs=rngs, dtype=dtype)
        )
    except ValueError as error:
        raise UserError(f"config.loss: {error}") from error
    return GanLosses(loss_config, abstract_dit(config, dtype), discriminator)


def make(
    settings: Settings,
    config: DiTConfig | None = None,
    autoencoder: tuple[VAE, Params] | None = None,
) -> Stage:
    """Returns the stage; ``config`` and ``autoencoder`` are as in stage ``sr``.

    The discriminator's body begins as a copy of the generator, whatever that begins as. Raises
    UserError when its depths do not fit the transformer.
    """
    config = config or settings.transformer
    loss_config: AdversarialLoss = settings.loss
    losses = gan_losses(settings, config)
    vae, frozen_params = autoencoder or load_vae(settings)

    def init(key: Array) -> Params:
        own, model = jax.random.split(key)
        fresh = to_dict(Discriminator(config, loss_config.depths, rngs=nnx.Rngs(own)))
        return fresh_params(model, config, loss_config.text_lengths) | {"discriminator": fresh}

    def begin(params: Params) -> Params:
        heads = params["discriminator"]
        body = body_of(params["dit"], heads["body"])
        return params | {"discriminator": heads | {"body": body}}

    def of_discriminator(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        return losses.of_discriminator(params, batch, key)

    def of_generator(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        total, metrics, x0 = losses.of_generator(params, batch, key)
        if loss_config.pixel_weight:
            counts = [min(loss_config.pixel_samples, len(x)) for x in x0]
            weights = (loss_config.gradient, loss_config.frequency)
            pixel, parts = composited_loss(bind(vae, frozen["vae"]), x0, batch, counts, *weights)
            total, metrics = total + loss_config.pixel_weight * pixel, metrics | parts
        return total, metrics

    return Stage(
        init=init,
        loss=of_generator,
        frozen=frozen_params,
        fixed=buffers(losses.generator, "dit")
        | buffers(losses.discriminator, "discriminator")
        | (frozenset() if loss_config.train_text else TEXTS),
        recipe=recipe_of(settings, masks=True, packing=loss_config.packing),
        config={"dit": to_json(config)},
        prepare=functools.partial(with_latents, vae),
        trainees=(
            Trainee(
                "discriminator", ("discriminator",), of_discriminator,
                loss_config.discriminator_rate,
            ),
            Trainee("generator", ("dit", "text"), of_generator),
        ),
        auxiliary=frozenset({"discriminator"}),
        begin=begin,
        preview=one_step_preview(losses.generator, vae, loss_config.condition_noise),
        flops=_flops(loss_config, config, vae, settings.optimizer.accumulate),
    )  # fmt: skip


def _flops(
    loss_config: AdversarialLoss, config: DiTConfig, vae: VAE, micro: int
) -> Callable[[Batch], float]:
    """Counts the operations of a step of ``micro`` micro-batches, without the few of the heads."""
    coding, body = coding_flops(vae), loss_config.depths[-1] / config.layers
    inputs = 2 + bool(loss_config.r1) + bool(loss_config.r2)
    of_discriminator = 1 + inputs * (1 + BACKWARD) * body
    of_generator = 1 + BACKWARD + (2 + BACKWARD_FROZEN) * body

    def decoded(samples: int) -> int:
        if not loss_config.pixel_weight:
            return 0
        return min(loss_config.pixel_samples, samples // micro) * micro

    def flops(batch: Batch) -> float:
        transformers = (of_discriminator + of_generator) * dit_flops(config, batch.plan).total
        return transformers + coding(batch, decoded)

    return flops
