"""Stage ``sr``: trains the transformer by flow matching on kept tokens (``losses.flow``).

The first samples of a batch are at u = 1, the timestep of a one-step model. Some of them are also
decoded, composited with the upscaled input where tokens were skipped, and compared in pixels: the
best single step is the mean in pixel space, not in latent space.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.config import require, require_between, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.data.packing import Packing
from skipsr_jax.diffusion.schedule import TERMINAL
from skipsr_jax.diffusion.timesteps import sample_training_timesteps, shift_factor
from skipsr_jax.models.adapter import with_adapter
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.flops import BACKWARD, BACKWARD_FROZEN, dit_flops
from skipsr_jax.models.params import Params, bind
from skipsr_jax.models.vae import VAE
from skipsr_jax.training.adapter import adapted
from skipsr_jax.training.frozen_vae import coding_flops, load_vae, with_latents
from skipsr_jax.training.losses.composited import composited_loss
from skipsr_jax.training.losses.flow import (
    clean_latents,
    noise_like,
    noised_condition,
    noisy_latents,
    predict,
    velocity_error,
)
from skipsr_jax.training.packed import Latents, by_pack, skip_percent
from skipsr_jax.training.previews import one_step_preview
from skipsr_jax.training.settings import Settings, TokenSettings
from skipsr_jax.training.stage import Metrics, Stage, buffers, recipe_of
from skipsr_jax.training.transformer import TEXTS, abstract_dit, bind_trained, fresh_params
from skipsr_jax.types import Bool, Float


@dataclasses.dataclass(frozen=True)
class SrLoss(TokenSettings):
    """The section ``loss``: what is trained, on the tokens that ``TokenSettings`` selects.

    Attributes:
      one_step_share: fraction of the samples at timestep 1000, of each shape in a batch; the others
        are logit-normal.
      shift: move the other timesteps towards noise with the size of the clip, as SeedVR does.
      condition_noise: level of the noise on the condition, 0 to 1.
      condition_drop: fraction of the samples without a condition, of those that are not decoded;
        guidance can then tell the condition's part.
      train_text: whether the texts are trained too, or stay as init_from has them.
      pixel_weight: weight of the pixel loss; 0 decodes nothing.
      pixel_samples: how many of the one-step samples are decoded, of each shape in a batch.
      gradient: weight of the error of gradients in the pixel loss.
      frequency: weight of the error of the spectrum in the pixel loss.
      negative_share: fraction of the samples with the negative text.
    """

    one_step_share: float = 0.5
    shift: bool = False
    condition_noise: float = 0.0
    condition_drop: float = 0.0
    train_text: bool = True
    pixel_weight: float = 1.0
    pixel_samples: int = 8
    gradient: float = 0.5
    frequency: float = 0.05
    negative_share: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        for name in ("one_step_share", "condition_noise", "condition_drop", "negative_share"):
            require_between(name, getattr(self, name), 0, 1)
        for name in ("pixel_weight", "gradient", "frequency", "pixel_samples"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")

    @property
    def packing(self) -> Packing:
        """How data workers make token plans."""
        return dataclasses.replace(super().packing, negative_share=self.negative_share)


def velocity_loss(
    dit: DiT, loss_config: SrLoss, text: Params, batch: Batch, key: Array
) -> tuple[Float[Array, ""], Metrics, Latents]:
    """The part of the loss that needs latents alone, its metrics, and the x_0 that it predicts.

    ``batch`` has latents.
    """
    times, noise, level, drop = jax.random.split(key, 4)
    clean, packs = batch.hr_latents, len(batch.negative)

    def first(count: Callable[[int], int]) -> Bool[Array, "b k"]:
        return by_pack([jnp.arange(len(x)) < count(len(x)) for x in clean], packs)

    factors = [shift_factor(x.shape[1:4]) if loss_config.shift else 1.0 for x in clean]
    factor = by_pack([jnp.full(len(x), f) for x, f in zip(clean, factors, strict=True)], packs)
    one_step = first(lambda samples: _one_step_samples(loss_config, samples))
    timestep = jnp.where(one_step, TERMINAL, sample_training_timesteps(times, factor))
    has_condition = jax.random.uniform(drop, timestep.shape) >= loss_config.condition_drop
    has_condition |= first(lambda samples: _decoded_samples(loss_config, samples))
    conditions = noised_condition(batch.lr_latents, loss_config.condition_noise, level)
    end = noise_like(clean, noise)
    return matching_loss(dit, text, batch, end, conditions, timestep, has_condition)


def matching_loss(
    dit: DiT,
    text: Params,
    batch: Batch,
    end: Latents,
    conditions: Latents,
    timestep: Float[Array, "b k"],
    has_condition: Bool[Array, "b k"],
) -> tuple[Float[Array, ""], Metrics, Latents]:
    """``velocity_loss`` of everything that it draws at random.

    It is the mean over the kept tokens of all samples, whatever else shares their sequence.

    Args:
      dit, text, batch: as in ``losses.flow.predict``; the batch has latents.
      end: x_T.
      conditions: latents of the upscaled inputs, with their noise.
      timestep: 0 to 1000.
      has_condition: which samples have a condition.
    """
    clean, plan = batch.hr_latents, batch.plan
    noisy = noisy_latents(clean, end, timestep)
    predicted = predict(dit, text, noisy, conditions, timestep, batch, has_condition)
    total = velocity_error(predicted, clean, end, plan)
    metrics = {"velocity": total, "skip_percent": skip_percent(plan, clean)}
    return total, metrics, clean_latents(predicted, noisy, timestep, plan)


def _one_step_samples(loss_config: SrLoss, samples: int) -> int:
    """How many of ``samples``, the first ones, are at the timestep of a one-step model."""
    return round(loss_config.one_step_share * samples)


def _decoded_samples(loss_config: SrLoss, samples: int) -> int:
    """How many of these are compared in pixels."""
    if not loss_config.pixel_weight:
        return 0
    return min(loss_config.pixel_samples, _one_step_samples(loss_config, samples))


def make(
    settings: Settings,
    config: DiTConfig | None = None,
    autoencoder: tuple[VAE, Params] | None = None,
    base: Params | None = None,
) -> Stage:
    """Returns the stage, which trains the transformer, or an adapter of it.

    Args:
      settings: of the run; ``loss`` is an SrLoss.
      config: replaces the transformer of ``settings.model``.
      autoencoder: module and ``{"vae": parameters}``, which may be shapes; replaces the one that
        ``settings.vae`` names.
      base: the frozen transformer and texts of an adapter, as ``training.adapter.adapted`` takes
        them.
    """
    config = config or settings.transformer
    loss_config: SrLoss = settings.loss
    vae, frozen_params = autoencoder or load_vae(settings)
    module, adapter = abstract_dit(config, jnp.dtype(settings.dtype)), settings.adapter
    if adapter.rank:
        module = with_adapter(module, adapter)

    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        dit = bind_trained(module, params["dit"])
        total, metrics, x0 = velocity_loss(dit, loss_config, params["text"], batch, key)
        if loss_config.pixel_weight:
            counts = [_decoded_samples(loss_config, len(x)) for x in x0]
            weights = (loss_config.gradient, loss_config.frequency)
            pixel, parts = composited_loss(bind(vae, frozen["vae"]), x0, batch, counts, *weights)
            total, metrics = total + loss_config.pixel_weight * pixel, metrics | parts
        return total, metrics

    coding, micro = coding_flops(vae), settings.optimizer.accumulate

    def flops(batch: Batch) -> float:
        codes = coding(
            batch, lambda samples: _decoded_samples(loss_config, samples // micro) * micro
        )
        backward = BACKWARD_FROZEN if adapter.rank else BACKWARD
        return codes + (1 + backward) * dit_flops(config, batch.plan).total

    stage = Stage(
        init=functools.partial(fresh_params, config=config, text_lengths=loss_config.text_lengths),
        loss=loss,
        frozen=frozen_params,
        fixed=buffers(module, "dit") | (frozenset() if loss_config.train_text else TEXTS),
        recipe=recipe_of(settings, masks=True, packing=loss_config.packing),
        config={"dit": to_json(config)},
        prepare=functools.partial(with_latents, vae),
        preview=one_step_preview(module, vae, loss_config.condition_noise),
        flops=flops,
    )
    return adapted(stage, settings, config, module, base) if adapter.rank else stage
