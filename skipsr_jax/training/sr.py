"""Stage ``sr``: flow matching on the kept tokens alone.

x_t = (1 - u) x_0 + u x_T with x_0 the latent of the true clip; the transformer sees x_t, the latent
of the upscaled input and a text, and predicts v = x_T - x_0 for the kept tokens. Skipped tokens are
in no computation and in no loss (paper section 4.2).

The first samples of a batch are at u = 1, the timestep of a one-step model. Some of them are also
decoded, composed with the upscaled input where tokens were skipped, and compared in pixels: one
step has to land on the mean in pixel space, not in latent space.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from skipsr_jax.checkpoints.dataclass_json import to_json
from skipsr_jax.data.dataset import Packing
from skipsr_jax.diffusion.condition import add_condition_noise, condition
from skipsr_jax.diffusion.schedule import TERMINAL, add_noise, clean_from_velocity, velocity
from skipsr_jax.diffusion.timesteps import sample_training_timesteps, shift_factor
from skipsr_jax.models.dit import PATCH_AREA, DiT, DiTConfig
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.models.vae import VAE
from skipsr_jax.nn.params import Params, abstract, bind, flatten, to_dict, unflatten
from skipsr_jax.tokens.patches import patchify, unpatchify
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.training.frozen import encode, latent_shape, load_vae
from skipsr_jax.training.pixels import patches_to_pixels, psnr, signed, upscaled
from skipsr_jax.training.settings import Settings, require
from skipsr_jax.training.stage import Batch, Metrics, Stage, buffers, recipe_of
from skipsr_jax.training.vae import decode, reconstruction_loss
from skipsr_jax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class SrLoss:
    """What is trained, and how tokens are chosen and packed (skipsr_jax.data.dataset.Packing).

    Attributes:
      one_step_share: share of the samples at timestep 1000; the others are logit-normal.
      shift: move the other timesteps towards noise with the size of the clip, as SeedVR does.
      condition_noise: level of the noise on the condition, up to 1.
      pixel_weight: of the pixel loss; 0 decodes nothing.
      pixel_samples: how many of the one-step samples are decoded.
      gradient, frequency: parts of the pixel loss, as in stage vae.
      text_lengths: tokens of the positive and the negative text.
      samples_per_pack, kept_share, dense_share, random_drop, negative_share: see Packing.
    """

    one_step_share: float = 0.5
    shift: bool = False
    condition_noise: float = 0.0
    pixel_weight: float = 1.0
    pixel_samples: int = 8
    gradient: float = 0.5
    frequency: float = 0.05
    text_lengths: tuple[int, int] = (8, 8)
    samples_per_pack: int = 1
    kept_share: float = 1.0
    dense_share: float = 0.1
    random_drop: float = 0.1
    negative_share: float = 0.1

    def __post_init__(self):
        names = ("one_step_share", "condition_noise", "dense_share", "random_drop")
        for name in (*names, "negative_share"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "from 0 to 1")
        require(0 < self.kept_share <= 1, "kept_share", self.kept_share, "above 0, up to 1")
        for name in ("pixel_weight", "gradient", "frequency", "pixel_samples"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        require(min(self.text_lengths) >= 1, "text_lengths", self.text_lengths, "at least 1")
        require(self.samples_per_pack >= 1, "samples_per_pack", self.samples_per_pack, "at least 1")

    @property
    def packing(self) -> Packing:
        """How the workers make plans."""
        return Packing(
            samples=self.samples_per_pack,
            kept_share=self.kept_share,
            dense_share=self.dense_share,
            random_drop=self.random_drop,
            negative_share=self.negative_share,
            text_lengths=self.text_lengths,
        )


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


def _laid_out(patches: Float[Array, "s p i"], packs: int) -> Float[Array, "b kp i"]:
    """The patches of each pack's samples end to end."""
    return patches.reshape(packs, -1, patches.shape[-1])


def take_kept(patches: Float[Array, "s p i"], plan: TokenPlan) -> Float[Array, "b n i"]:
    """The kept patches in the plan's order; padding is zero."""
    laid = _laid_out(patches, len(plan.patch_index))
    index = jnp.where(plan.patch_index < 0, laid.shape[1], plan.patch_index)
    take = jax.vmap(lambda rows, i: rows.at[i].get(mode="fill", fill_value=0))
    return take(laid, index)


def put_kept(
    patches: Float[Array, "s p i"], tokens: Float[Array, "b n i"], plan: TokenPlan
) -> Float[Array, "s p i"]:
    """``patches`` with the kept ones replaced by ``tokens``."""
    laid = _laid_out(patches, len(plan.patch_index))
    index = jnp.where(plan.patch_index < 0, laid.shape[1], plan.patch_index)
    put = jax.vmap(lambda rows, i, new: rows.at[i].set(new, mode="drop"))
    return put(laid, index, tokens).reshape(patches.shape)


def _texts(text: Params, batch: Batch, slots: int) -> Float[Array, "b m j"]:
    """The text of each sample of each pack, padded to ``slots`` tokens."""
    positive, negative = (
        jnp.pad(text[name], ((0, slots - len(text[name])), (0, 0)))
        for name in ("positive", "negative")
    )
    chosen = jnp.where(batch["negative"][:, :, None, None], negative, positive)
    return chosen.reshape(chosen.shape[0], -1, chosen.shape[-1])


def make(
    settings: Settings,
    config: DiTConfig | None = None,
    autoencoder: tuple[VAE, Params] | None = None,
) -> Stage:
    """The stage. ``config`` stands in for the model's own transformer, ``autoencoder`` (module and
    ``{"vae": parameters}``, which may be shapes) for the one that the settings name."""
    config = config or DIT_PRESETS[settings.model]
    weight: SrLoss = settings.loss
    vae, frozen_params = autoencoder or load_vae(settings)
    dtype = jnp.dtype(settings.dtype)
    module = abstract(lambda: DiT(config, rngs=nnx.Rngs(0), dtype=dtype))

    def init(key: Array) -> Params:
        dit, positive, negative = jax.random.split(key, 3)
        lengths = weight.text_lengths
        text = {
            "positive": jax.random.normal(positive, (lengths[0], config.text_width)),
            "negative": jax.random.normal(negative, (lengths[1], config.text_width)),
        }
        params = to_dict(DiT(config, rngs=nnx.Rngs(dit)))
        if not config.output_modulation:
            params = start_from_condition(params, config)
        return {"dit": params, "text": text}

    def loss(
        params: Params, frozen: Params, batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Metrics]:
        plan: TokenPlan = batch["plan"]
        keys = jax.random.split(key, 4)
        truth = signed(batch["hr"])
        given = upscaled(batch["lr"], truth.shape[2:4])
        samples = len(truth)
        shape = latent_shape(vae, truth)

        both = jnp.concatenate([truth, given])
        noise = jax.random.normal(keys[0], (2 * samples, *shape[1:]))
        clean, low = jnp.split(encode(vae, frozen["vae"], both, noise), 2)

        one_step = round(weight.one_step_share * samples)
        factor = shift_factor(shape[1:4]) if weight.shift else 1.0
        timestep = sample_training_timesteps(keys[1], jnp.full(samples, factor))
        timestep = jnp.where(jnp.arange(samples) < one_step, TERMINAL, timestep)
        end = jax.random.normal(keys[2], shape)
        noisy = add_noise(clean, end, timestep)
        seen = add_condition_noise(
            low, jax.random.normal(keys[3], shape), weight.condition_noise, shape[1:4]
        )

        dit = bind(module, params["dit"])
        patches = patchify(jnp.concatenate([noisy, condition(seen)], axis=-1))
        predicted = dit(
            take_kept(patches, plan),
            _texts(params["text"], batch, max(weight.text_lengths)),
            timestep.reshape(batch["negative"].shape),
            plan,
        )
        target = take_kept(patchify(velocity(clean, end)), plan)
        error = jnp.square(predicted - target).mean(axis=-1) * plan.valid
        total = error.sum() / plan.valid.sum()
        kept_share = plan.valid.sum() / (patches.shape[0] * patches.shape[1])
        metrics = {"velocity": total, "skip_percent": 100 * (1 - kept_share)}

        decoded = min(weight.pixel_samples, one_step)
        if decoded and weight.pixel_weight:
            full = put_kept(jnp.zeros_like(patches[..., : predicted.shape[-1]]), predicted, plan)
            grid = (shape[1], shape[2] // 2, shape[3] // 2)
            x0 = clean_from_velocity(unpatchify(full, grid), noisy, timestep)
            ones = jnp.ones((*plan.patch_index.shape, 1))
            keep = put_kept(jnp.zeros((*patches.shape[:2], 1)), ones, plan) > 0
            keep = keep.reshape(samples, *grid)
            part = slice(0, decoded)
            pixel, seen_in_pixels = _pixel_loss(
                bind(vae, frozen["vae"]), weight, x0[part], low[part], keep[part], given[part],
                truth[part],
            )  # fmt: skip
            total = total + weight.pixel_weight * pixel
            metrics |= seen_in_pixels
        return total, metrics

    return Stage(
        init=init,
        loss=loss,
        frozen=frozen_params,
        fixed=buffers(module, "dit"),
        recipe=recipe_of(settings, masks=True, packing=weight.packing),
        config={"dit": to_json(config)},
    )


def _pixel_loss(vae, weight, x0, low, keep, given, truth) -> tuple[Float[Array, ""], Metrics]:
    """One step, decoded and composed as inference does it, against the true clip."""
    token = jnp.repeat(jnp.repeat(keep, 2, axis=2), 2, axis=3)[..., None]
    latent = jnp.where(token, x0, low) / vae.config.scaling_factor
    inside = patches_to_pixels(keep)
    frames = jnp.where(inside, decode(vae, latent, given), given)
    error = jnp.where(inside, frames - truth, 0.0)
    total, parts = reconstruction_loss(error, weight.gradient, weight.frequency)
    return total, parts | {
        "psnr": psnr(frames, truth).mean(),
        "psnr_upscaled": psnr(given, truth).mean(),
        "psnr_kept": psnr(frames, truth, inside).mean(),
        "psnr_kept_upscaled": psnr(given, truth, inside).mean(),
    }
