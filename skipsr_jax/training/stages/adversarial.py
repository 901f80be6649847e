"""Stage ``adversarial``: a one-step model learns detail from a discriminator (SkipSR section 4.2).

Adversarial post-training, APT (Lin et al. 2025, arXiv 2501.08316), in the form that SeedVR2 gave it
for restoration (arXiv 2506.05301): the generator goes from pure noise to the clean latent in one
step; the discriminator, the same transformer with heads, sees a true or a generated latent without
noise, the condition, and a random timestep. In each step it learns first, then the generator does.

  discriminator:  L_D(r, g) + r1 |D(x) - D(x + sigma eps)|^2 + r2 |D(y) - D(y + sigma eps)|^2
  generator:      adversarial L_G(r, g) + features |F(y) - F(x)| + latent |y - x| + pixels

with x the true latent, y the generated one, r = D(x), g = D(y), F the discriminator's tokens at
the depths of its heads, L_D and L_G as in ``training.gan``. Invariant: all of it, the pixel loss
aside, is on kept tokens; what skipped ones hold plays no part.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.config import require, to_json
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
from skipsr_jax.training.losses.composited import one_step_preview, shown_loss
from skipsr_jax.training.losses.flow import (
    TEXTS,
    Latents,
    TokenChoice,
    by_pack,
    clean_latents,
    condition_tokens,
    kept_tokens,
    mean_over_kept,
    noise_like,
    noised_condition,
    of_tokens,
    predict,
    skip_percent,
    texts,
)
from skipsr_jax.training.losses.gan import (
    Pairing,
    discriminator_loss,
    generator_loss,
    perturbation_penalty,
)
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Metrics, Player, Stage, buffers, recipe_of
from skipsr_jax.training.stages.sr import abstract_dit, fresh_params
from skipsr_jax.types import Float

DISTANCES = {"l1": jnp.abs, "l2": jnp.square}


@dataclasses.dataclass(frozen=True)
class AdversarialLoss(TokenChoice):
    """The game and its weights, on the tokens that ``TokenChoice`` takes.

    Attributes:
      pairing: of true and generated samples, see ``training.gan``.
      depths: layers after which a head of the discriminator looks, rising.
      discriminator_rate: its learning rate, as a factor on the generator's.
      shift_image, shift_video: factors that move its timesteps, else uniform, towards noise.
      r1, r2: weights of the penalties on true and on generated samples; 0: not computed.
      sigma_image, sigma_video: standard deviation of their perturbation of the latent.
      adversarial, features, latent: weights of the parts of the generator's loss.
      feature_distance: how features are compared, "l1" or "l2".
      pixel_weight, pixel_samples, gradient, frequency: the pixel loss, as in stage sr.
      condition_noise: level of the noise on the condition, up to 1.
      train_text: whether the texts are trained too, or stay as ``init_from`` has them.
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
        rate = self.discriminator_rate
        require(0 <= rate <= 1000, "discriminator_rate", rate, "from 0 to 1000")
        weights = ("r1", "r2", "adversarial", "features", "latent", "pixel_weight")
        for name in (*weights, "sigma_image", "sigma_video", "pixel_samples"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("gradient", "frequency"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("shift_image", "shift_video"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0 (1: no shift)")
        level = self.condition_noise
        require(0 <= level <= 1, "condition_noise", level, "from 0 to 1")


@dataclasses.dataclass(frozen=True)
class Game:
    """Both losses, from latents on. ``generator`` and ``judge`` are modules without numbers."""

    weight: AdversarialLoss
    generator: DiT
    judge: Discriminator

    def generate(
        self, params: Params, batch: Batch, key: Array
    ) -> tuple[Latents, Float[Array, "b n y"]]:
        """The latents after one step from pure noise, and the tokens of the condition.

        Latents are right where tokens are kept, and noise elsewhere.
        """
        noise, level = jax.random.split(key)
        low, plan = batch.lr_latents, batch.plan
        start = noise_like(low, noise)
        seen = noised_condition(low, self.weight.condition_noise, level)
        timestep = jnp.full(plan.text_length.shape, TERMINAL)
        dit = bind(self.generator, params["dit"])
        predicted = predict(dit, params["text"], start, seen, timestep, batch)
        return clean_latents(predicted, start, timestep, plan), condition_tokens(seen, plan)

    def _timesteps(self, batch: Batch, key: Array) -> Float[Array, "b k"]:
        """For the discriminator: uniform, shifted (APT, equations 6 and 7)."""
        factor = _by_kind(batch, self.weight.shift_image, self.weight.shift_video)
        uniform = jax.random.uniform(key, batch.negative.shape)
        return shift_timestep(uniform * TERMINAL, factor)

    def discriminator_loss(
        self, params: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        """How badly the discriminator tells true from generated, and the two penalties.

        ``batch``: with latents.
        """
        weight, plan = self.weight, batch.plan
        play, times, noise = jax.random.split(key, 3)
        generated, conditions = self.generate(params, batch, play)
        judge = bind(self.judge, params["discriminator"])
        timestep = self._timesteps(batch, times)
        text = texts(params["text"], batch.negative)

        def look(tokens: Float[Array, "b n x"]) -> Float[Array, "b k"]:
            return judge(join_channels(tokens, conditions), text, timestep, plan)[0]

        shown = [kept_tokens(batch.hr_latents, plan), kept_tokens(generated, plan)]
        sigma = _by_kind(batch, weight.sigma_image, weight.sigma_video)
        sigma = of_tokens(sigma, plan)[..., None]
        penalties = {"r1": weight.r1, "r2": weight.r2}
        perturbed = {name: i for i, (name, value) in enumerate(penalties.items()) if value}
        for k, i in zip(jax.random.split(noise, 2), perturbed.values(), strict=False):
            shown.append(shown[i] + sigma * jax.random.normal(k, shown[i].shape))
        # One after the other, in one compiled pass.
        real, fake, *others = jax.lax.map(look, jnp.stack(shown))

        total = discriminator_loss(real, fake, weight.pairing)
        metrics = {
            "discriminator": total,
            "logit_real": real.mean(),
            "logit_fake": fake.mean(),
            "told_apart_percent": 100 * jnp.mean(real > fake),
        }
        for (name, i), logits in zip(perturbed.items(), others, strict=True):
            metrics[name] = perturbation_penalty((real, fake)[i], logits)
            total = total + penalties[name] * metrics[name]
        return total, metrics

    def generator_loss(
        self, params: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics, Latents]:
        """What the discriminator and the true latents say of the generated ones, and the latter."""
        weight, plan = self.weight, batch.plan
        play, times = jax.random.split(key)
        generated, conditions = self.generate(params, batch, play)
        judge = bind(self.judge, params["discriminator"])
        timestep = self._timesteps(batch, times)
        text = jax.lax.stop_gradient(texts(params["text"], batch.negative))

        def look(tokens: Float[Array, "b n x"]) -> tuple[Array, list[Array]]:
            return judge(join_channels(tokens, conditions), text, timestep, plan)

        x, y = kept_tokens(batch.hr_latents, plan), kept_tokens(generated, plan)
        fake, seen = look(y)
        real, wanted = look(x)
        distance = DISTANCES[weight.feature_distance]
        parts = {
            "adversarial": generator_loss(real, fake, weight.pairing),
            "features": sum(
                mean_over_kept(distance(a.astype(jnp.float32) - b.astype(jnp.float32)), plan)
                for a, b in zip(seen, wanted, strict=True)
            )
            / len(seen),
            "latent": mean_over_kept(jnp.abs(y - x), plan),
        }
        total = sum(getattr(weight, name) * part for name, part in parts.items())
        return total, parts | {"skip_percent": skip_percent(plan, batch.hr_latents)}, generated


def _by_kind(batch: Batch, image: float, video: float) -> Float[Array, "b k"]:
    """One of the two numbers for each sample: pictures have one frame."""
    numbers = [jnp.full(len(x), image if x.shape[1] == 1 else video) for x in batch.hr_latents]
    return by_pack(numbers, len(batch.negative))


def _modules(settings: Settings, config: DiTConfig) -> tuple[DiT, Discriminator]:
    dtype, depths = jnp.dtype(settings.dtype), settings.loss.depths
    generator = abstract_dit(config, dtype)
    try:
        judge = abstract(lambda: Discriminator(config, depths, rngs=nnx.Rngs(0), dtype=dtype))
    except ValueError as error:
        raise UserError(f"config.loss: {error}") from error
    return generator, judge


def make(
    settings: Settings,
    config: DiTConfig | None = None,
    autoencoder: tuple[VAE, Params] | None = None,
) -> Stage:
    """The stage. ``config`` and ``autoencoder``: as stage ``sr``.

    The discriminator's body begins as a copy of the generator, whatever that begins as. Raises
    UserError when its depths do not fit the transformer.
    """
    config = config or settings.transformer
    weight: AdversarialLoss = settings.loss
    generator, judge = _modules(settings, config)
    vae, frozen_params = autoencoder or load_vae(settings)
    game = Game(weight, generator, judge)

    def init(key: Array) -> Params:
        own, model = jax.random.split(key)
        fresh = to_dict(Discriminator(config, weight.depths, rngs=nnx.Rngs(own)))
        return fresh_params(model, config, weight.text_lengths) | {"discriminator": fresh}

    def begin(params: Params) -> Params:
        heads = params["discriminator"]
        body = body_of(params["dit"], heads["body"])
        return params | {"discriminator": heads | {"body": body}}

    def of_discriminator(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        return game.discriminator_loss(params, batch, key)

    def of_generator(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        total, metrics, x0 = game.generator_loss(params, batch, key)
        if weight.pixel_weight:
            counts = [min(weight.pixel_samples, len(x)) for x in x0]
            kinds = (weight.gradient, weight.frequency)
            pixel, seen = shown_loss(bind(vae, frozen["vae"]), x0, batch, counts, *kinds)
            total, metrics = total + weight.pixel_weight * pixel, metrics | seen
        return total, metrics

    return Stage(
        init=init,
        loss=of_generator,
        frozen=frozen_params,
        fixed=buffers(generator, "dit")
        | buffers(judge, "discriminator")
        | (frozenset() if weight.train_text else TEXTS),
        recipe=recipe_of(settings, masks=True, packing=weight.packing),
        config={"dit": to_json(config)},
        prepare=functools.partial(with_latents, vae),
        players=(
            Player(
                "discriminator", ("discriminator",), of_discriminator, weight.discriminator_rate
            ),
            Player("generator", ("dit", "text"), of_generator),
        ),
        helpers=frozenset({"discriminator"}),
        begin=begin,
        preview=one_step_preview(generator, vae, weight.condition_noise),
        flops=_flops(weight, config, vae, settings.optimizer.accumulate),
    )


def _flops(weight: AdversarialLoss, config: DiTConfig, vae: VAE, parts: int):
    """Operations of a step; the heads, a small share, are not counted."""
    coding, judged = coding_flops(vae), weight.depths[-1] / config.layers
    looks = 2 + bool(weight.r1) + bool(weight.r2)
    of_discriminator = 1 + looks * (1 + BACKWARD) * judged
    of_generator = 1 + BACKWARD + (2 + BACKWARD_FROZEN) * judged

    def decoded(samples: int) -> int:
        return min(weight.pixel_samples, samples // parts) * parts * bool(weight.pixel_weight)

    def flops(batch: Batch) -> float:
        transformers = (of_discriminator + of_generator) * dit_flops(config, batch.plan).total
        return transformers + coding(batch, decoded)

    return flops
