"""Stage ``sr``: flow matching on the kept tokens alone (skipsr_jax.training.losses.flow).

The first samples of a batch are at u = 1, the timestep of a one-step model. Some of them are also
decoded, composed with the upscaled input where tokens were skipped, and compared in pixels: one
step has to land on the mean in pixel space, not in latent space.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from skipsr_jax.config import require, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.data.packing import Packing
from skipsr_jax.diffusion.schedule import TERMINAL
from skipsr_jax.diffusion.timesteps import sample_training_timesteps, shift_factor
from skipsr_jax.geometry import PATCH_AREA
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.flops import BACKWARD, dit_flops
from skipsr_jax.models.params import Params, abstract, bind, flatten, to_dict, unflatten
from skipsr_jax.models.vae import VAE
from skipsr_jax.training.frozen_vae import coding_flops, load_vae, with_latents
from skipsr_jax.training.losses.composited import one_step_preview, shown_loss
from skipsr_jax.training.losses.flow import (
    TEXTS,
    Latents,
    TokenChoice,
    by_pack,
    clean_latents,
    noise_like,
    noised_condition,
    noisy_latents,
    predict,
    skip_percent,
    velocity_error,
)
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Metrics, Stage, buffers, recipe_of
from skipsr_jax.types import Bool, DType, Float


@dataclasses.dataclass(frozen=True)
class SrLoss(TokenChoice):
    """What is trained, on the tokens that ``TokenChoice`` takes.

    Attributes:
      one_step_share: share of the samples at timestep 1000, of each shape in a batch; the others
        are logit-normal.
      shift: move the other timesteps towards noise with the size of the clip, as SeedVR does.
      condition_noise: level of the noise on the condition, up to 1.
      condition_drop: share of the samples, of those that are not decoded, that do not see
        the input; guidance can then tell the condition's part.
      train_text: whether the texts are trained too, or stay as ``init_from`` has them.
      pixel_weight: of the pixel loss; 0 decodes nothing.
      pixel_samples: how many of the one-step samples are decoded, of each shape in a batch.
      gradient, frequency: parts of the pixel loss, as in stage vae.
      negative_share: share of the samples with the negative text.
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
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "from 0 to 1")
        for name in ("pixel_weight", "gradient", "frequency", "pixel_samples"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")

    @property
    def packing(self) -> Packing:
        """How the workers make plans."""
        return dataclasses.replace(super().packing, negative_share=self.negative_share)


def start_from_condition(params: Params, config: DiTConfig) -> Params:
    """The transformer's parameters, changed so that its one-step result is the condition.

    From random parameters a one-step model first has to learn to copy the noise that it is to
    subtract, exactly, through all layers. Here the first channels of the residual stream carry
    x_t - condition from the input layer to the output layer, and all gates start closed, as in
    adaLN-Zero (Peebles & Xie 2023, section 3.2). Needs a plain output layer and width >= 4 * 16.
    """
    channels, outputs = config.out_channels, PATCH_AREA * config.out_channels
    carried = np.zeros((PATCH_AREA, config.in_channels, outputs), np.float32)
    for pixel in range(PATCH_AREA):
        for c in range(channels):
            carried[pixel, c, pixel * channels + c] = 1.0
            carried[pixel, channels + c, pixel * channels + c] = -1.0
    carried = carried.reshape(-1, outputs)

    def changed(path: str, x: Array) -> Array:
        if path == "vid_in/kernel":
            return x.at[:, :outputs].set(carried)
        if path == "vid_in/bias":
            return x.at[:outputs].set(0.0)
        if path == "vid_out/kernel":
            return jnp.eye(config.width, outputs, dtype=x.dtype)
        if path.startswith("emb_in/proj_out/"):
            return x.at[..., 2::3].set(0.0)  # (shift, scale, gate) of each channel and layer
        closed = path == "vid_out/bias" or path.endswith(("attn_gate", "mlp_gate"))
        return jnp.zeros_like(x) if closed else x

    return unflatten({path: changed(path, x) for path, x in flatten(params).items()})


def abstract_dit(config: DiTConfig, dtype: DType) -> DiT:
    """The transformer as shapes, computing in ``dtype``."""
    return abstract(lambda: DiT(config, rngs=nnx.Rngs(0), dtype=dtype))


def fresh_params(key: Array, config: DiTConfig, text_lengths: tuple[int, int]) -> Params:
    """Random parameters ``{"dit", "text"}`` to begin with; see ``start_from_condition``."""
    dit, positive, negative = jax.random.split(key, 3)
    text = {
        "positive": jax.random.normal(positive, (text_lengths[0], config.text_width)),
        "negative": jax.random.normal(negative, (text_lengths[1], config.text_width)),
    }
    params = to_dict(DiT(config, rngs=nnx.Rngs(dit)))
    if not config.output_modulation:
        params = start_from_condition(params, config)
    return {"dit": params, "text": text}


def velocity_loss(
    dit: DiT, weight: SrLoss, text: Params, batch: Batch, key: Array
) -> tuple[Float[Array, ""], Metrics, Latents]:
    """The part of the loss that needs latents alone, its metrics, and the x_0 that it predicts.

    ``batch``: with latents.
    """
    times, noise, level, drop = jax.random.split(key, 4)
    clean, packs = batch.hr_latents, len(batch.negative)

    def first(count: Callable[[int], int]) -> Bool[Array, "b k"]:
        return by_pack([jnp.arange(len(x)) < count(len(x)) for x in clean], packs)

    factors = [shift_factor(x.shape[1:4]) if weight.shift else 1.0 for x in clean]
    factor = by_pack([jnp.full(len(x), f) for x, f in zip(clean, factors, strict=True)], packs)
    one_step = first(lambda samples: _one_step_samples(weight, samples))
    timestep = jnp.where(one_step, TERMINAL, sample_training_timesteps(times, factor))
    has_condition = jax.random.uniform(drop, timestep.shape) >= weight.condition_drop
    has_condition |= first(lambda samples: _decoded_samples(weight, samples))
    seen = noised_condition(batch.lr_latents, weight.condition_noise, level)
    return matching_loss(dit, text, batch, noise_like(clean, noise), seen, timestep, has_condition)


def matching_loss(
    dit: DiT,
    text: Params,
    batch: Batch,
    end: Latents,
    seen: Latents,
    timestep: Float[Array, "b k"],
    has_condition: Bool[Array, "b k"],
) -> tuple[Float[Array, ""], Metrics, Latents]:
    """``velocity_loss`` when all is drawn: x_T, conditions, timesteps and which samples have
    conditions.

    It is the mean over the kept tokens of all samples, whatever else shares their sequence.
    """
    clean, plan = batch.hr_latents, batch.plan
    noisy = noisy_latents(clean, end, timestep)
    predicted = predict(dit, text, noisy, seen, timestep, batch, has_condition)
    total = velocity_error(predicted, clean, end, plan)
    metrics = {"velocity": total, "skip_percent": skip_percent(plan, clean)}
    return total, metrics, clean_latents(predicted, noisy, timestep, plan)


def _one_step_samples(weight: SrLoss, samples: int) -> int:
    """How many samples of a batch, the first ones, are at the timestep of a one-step model."""
    return round(weight.one_step_share * samples)


def _decoded_samples(weight: SrLoss, samples: int) -> int:
    """How many of them are compared in pixels."""
    return (
        min(weight.pixel_samples, _one_step_samples(weight, samples)) if weight.pixel_weight else 0
    )


def make(
    settings: Settings,
    config: DiTConfig | None = None,
    autoencoder: tuple[VAE, Params] | None = None,
) -> Stage:
    """The stage. ``config`` stands in for the model's own transformer, ``autoencoder`` (module and
    ``{"vae": parameters}``, which may be shapes) for the one that the settings name."""
    config = config or settings.transformer
    weight: SrLoss = settings.loss
    vae, frozen_params = autoencoder or load_vae(settings)
    module = abstract_dit(config, jnp.dtype(settings.dtype))

    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        dit = bind(module, params["dit"])
        total, metrics, x0 = velocity_loss(dit, weight, params["text"], batch, key)
        if weight.pixel_weight:
            counts = [_decoded_samples(weight, len(x)) for x in x0]
            kinds = (weight.gradient, weight.frequency)
            pixel, seen = shown_loss(bind(vae, frozen["vae"]), x0, batch, counts, *kinds)
            total, metrics = total + weight.pixel_weight * pixel, metrics | seen
        return total, metrics

    coding, parts = coding_flops(vae), settings.optimizer.accumulate

    def flops(batch: Batch) -> float:
        codes = coding(batch, lambda samples: _decoded_samples(weight, samples // parts) * parts)
        return codes + (1 + BACKWARD) * dit_flops(config, batch.plan).total

    return Stage(
        init=functools.partial(fresh_params, config=config, text_lengths=weight.text_lengths),
        loss=loss,
        frozen=frozen_params,
        fixed=buffers(module, "dit") | (frozenset() if weight.train_text else TEXTS),
        recipe=recipe_of(settings, masks=True, packing=weight.packing),
        config={"dit": to_json(config)},
        prepare=functools.partial(with_latents, vae),
        preview=one_step_preview(module, vae, weight.condition_noise),
        flops=flops,
    )
