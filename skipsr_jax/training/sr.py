"""Stage ``sr``: flow matching on the kept tokens alone (skipsr_jax.training.flow).

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

from skipsr_jax.checkpoints.dataclass_json import to_json
from skipsr_jax.data.dataset import Packing
from skipsr_jax.diffusion.condition import add_condition_noise
from skipsr_jax.diffusion.schedule import TERMINAL, add_noise
from skipsr_jax.diffusion.timesteps import sample_training_timesteps, shift_factor
from skipsr_jax.models.dit import PATCH_AREA, DiT, DiTConfig
from skipsr_jax.models.flops import BACKWARD, BACKWARD_FROZEN, dit_flops, vae_flops
from skipsr_jax.models.vae import VAE
from skipsr_jax.nn.params import Params, abstract, bind, flatten, to_dict, unflatten
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.training.flow import (
    TEXTS,
    TokenChoice,
    clean_latent,
    kept_patches,
    predict,
    skip_percent,
    velocity_error,
)
from skipsr_jax.training.frozen import encode, encode_pair, latent_shape, load_vae
from skipsr_jax.training.pixels import patches_to_pixels, psnr, signed, unsigned, upscaled
from skipsr_jax.training.settings import Settings, require
from skipsr_jax.training.stage import Batch, Metrics, Preview, Stage, buffers, recipe_of
from skipsr_jax.training.vae import decode, reconstruction_loss
from skipsr_jax.types import Array, Bool, DType, Float


@dataclasses.dataclass(frozen=True)
class SrLoss(TokenChoice):
    """What is trained, on the tokens that ``TokenChoice`` takes.

    Attributes:
      one_step_share: share of the samples at timestep 1000; the others are logit-normal.
      shift: move the other timesteps towards noise with the size of the clip, as SeedVR does.
      condition_noise: level of the noise on the condition, up to 1.
      condition_drop: share of the samples, of those that are not decoded, that are told nothing of
        the input; guidance can then tell the condition's part.
      train_text: whether the texts are trained too, or stay as ``init_from`` has them.
      pixel_weight: of the pixel loss; 0 decodes nothing.
      pixel_samples: how many of the one-step samples are decoded.
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
    dit: DiT,
    weight: SrLoss,
    text: Params,
    clean: Float[Array, "s t h w c"],
    low: Float[Array, "s t h w c"],
    batch: Batch,
    key: Array,
) -> tuple[Float[Array, ""], Metrics, Float[Array, "s t h w c"]]:
    """The part of the loss that needs latents alone, its metrics, and the x_0 that it predicts."""
    times, noise, level, drop = jax.random.split(key, 4)
    samples, shape = len(clean), clean.shape
    one_step = _one_step_samples(weight, samples)
    factor = shift_factor(shape[1:4]) if weight.shift else 1.0
    timestep = sample_training_timesteps(times, jnp.full(samples, factor))
    timestep = jnp.where(jnp.arange(samples) < one_step, TERMINAL, timestep)
    end = jax.random.normal(noise, shape)
    noisy = add_noise(clean, end, timestep)
    seen = add_condition_noise(
        low, jax.random.normal(level, shape), weight.condition_noise, shape[1:4]
    )
    plan: TokenPlan = batch["plan"]
    told = jax.random.uniform(drop, (samples,)) >= weight.condition_drop
    told |= jnp.arange(samples) < _decoded_samples(weight, samples)
    predicted = predict(dit, text, noisy, seen, timestep, batch, told)
    total = velocity_error(predicted, clean, end, plan)
    metrics = {"velocity": total, "skip_percent": skip_percent(plan, clean)}
    return total, metrics, clean_latent(predicted, noisy, timestep, plan)


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
        posterior, rest = jax.random.split(key)
        truth = signed(batch["hr"])
        given = upscaled(batch["lr"], truth.shape[2:4])
        clean, low = encode_pair(vae, frozen["vae"], truth, given, posterior)

        dit = bind(module, params["dit"])
        total, metrics, x0 = velocity_loss(dit, weight, params["text"], clean, low, batch, rest)
        decoded = _decoded_samples(weight, len(truth))
        if decoded:
            part = slice(0, decoded)
            keep = kept_patches(batch["plan"], clean)
            frames, inside = compose(
                bind(vae, frozen["vae"]), x0[part], low[part], keep[part], given[part]
            )
            pixel, seen = pixel_loss(
                frames, inside, given[part], truth[part], weight.gradient, weight.frequency
            )
            total = total + weight.pixel_weight * pixel
            metrics |= seen
        return total, metrics

    cost = functools.cache(lambda shape: vae_flops(vae, shape))

    def flops(batch: Batch) -> float:
        samples, *shape = batch["hr"].shape[:4]
        encoding, decoding = cost((1, *shape))
        parts = settings.optimizer.accumulate
        decoded = _decoded_samples(weight, samples // parts) * parts
        return (
            (1 + BACKWARD) * dit_flops(config, batch["plan"]).total
            + 2 * samples * encoding
            + (1 + BACKWARD_FROZEN) * decoded * decoding
        )

    return Stage(
        init=functools.partial(fresh_params, config=config, text_lengths=weight.text_lengths),
        loss=loss,
        frozen=frozen_params,
        fixed=buffers(module, "dit") | (frozenset() if weight.train_text else TEXTS),
        recipe=recipe_of(settings, masks=True, packing=weight.packing),
        config={"dit": to_json(config)},
        preview=one_step_preview(module, vae, weight.condition_noise),
        flops=flops,
    )


def compose(
    vae: VAE,
    x0: Float[Array, "s t v u c"],
    low: Float[Array, "s t v u c"],
    keep: Bool[Array, "s t r q"],
    given: Float[Array, "s f h w 3"],
) -> tuple[Float[Array, "s f h w 3"], Bool[Array, "s f h w 1"]]:
    """The one-step result as inference shows it, in about [-1, 1], and the pixels of kept patches.

    Skipped patches have the latent of the input, and show the upscaled input ``given`` itself.
    """
    token = jnp.repeat(jnp.repeat(keep, 2, axis=2), 2, axis=3)[..., None]
    latent = jnp.where(token, x0, low) / vae.config.scaling_factor
    inside = patches_to_pixels(keep)
    return jnp.where(inside, decode(vae, latent, given), given), inside


def one_step_preview(
    module: DiT, vae: VAE, condition_noise: float
) -> Callable[[Params, Params, Batch, Array], Preview]:
    """The preview of a stage with parameters ``dit`` and ``text``: one step from pure noise."""

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        posterior, noise, level = jax.random.split(key, 3)
        given = upscaled(batch["lr"], batch["hr"].shape[2:4])
        shape = latent_shape(vae, given)
        low = encode(vae, frozen["vae"], given, jax.random.normal(posterior, shape))
        start, timestep = jax.random.normal(noise, shape), jnp.full(len(given), TERMINAL)
        seen = add_condition_noise(
            low, jax.random.normal(level, shape), condition_noise, shape[1:4]
        )
        dit, plan = bind(module, params["dit"]), batch["plan"]
        predicted = predict(dit, params["text"], start, seen, timestep, batch)
        x0, keep = clean_latent(predicted, start, timestep, plan), kept_patches(plan, low)
        frames, _ = compose(bind(vae, frozen["vae"]), x0, low, keep, given)
        return Preview(unsigned(frames), keep)

    return preview


def pixel_loss(
    frames: Float[Array, "s f h w 3"],
    inside: Bool[Array, "s f h w 1"],
    given: Float[Array, "s f h w 3"],
    truth: Float[Array, "s f h w 3"],
    gradient: float,
    frequency: float,
) -> tuple[Float[Array, ""], Metrics]:
    """What the kept patches of a ``compose``d result show, against the true clip.

    ``gradient``, ``frequency``: weights of the parts, as in stage vae.
    """
    error = jnp.where(inside, frames - truth, 0.0)
    total, parts = reconstruction_loss(error, gradient, frequency)
    return total, parts | {
        "psnr": psnr(frames, truth).mean(),
        "psnr_upscaled": psnr(given, truth).mean(),
        "psnr_kept": psnr(frames, truth, inside).mean(),
        "psnr_kept_upscaled": psnr(given, truth, inside).mean(),
    }
