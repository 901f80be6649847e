"""Flow matching on kept tokens, from latents on: what every stage that trains a transformer shares.

x_t = (1 - u) x_0 + u x_T with x_0 the latent of the true clip; the transformer sees x_t, the latent
of the upscaled input and a text, and predicts v = x_T - x_0 for the kept tokens. Invariant: skipped
tokens are in no computation and in no loss (paper section 4.2).
"""

import jax
import jax.numpy as jnp

from skipsr_jax.diffusion.condition import condition
from skipsr_jax.diffusion.schedule import clean_from_velocity, velocity
from skipsr_jax.models.dit import DiT
from skipsr_jax.nn.params import Params
from skipsr_jax.tokens.patches import patchify, unpatchify
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.training.stage import Batch
from skipsr_jax.types import Array, Bool, Float


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


def _grid(latent: Float[Array, "s t h w c"]) -> tuple[int, int, int]:
    return latent.shape[1], latent.shape[2] // 2, latent.shape[3] // 2


def kept_patches(plan: TokenPlan, latent: Float[Array, "s t h w c"]) -> Bool[Array, "s t r q"]:
    """The keep mask of each sample, as the plan has it; ``latent`` gives the grid."""
    grid = _grid(latent)
    none = jnp.zeros((len(latent), grid[0] * grid[1] * grid[2], 1))
    ones = jnp.ones((*plan.patch_index.shape, 1))
    return (put_kept(none, ones, plan) > 0).reshape(len(latent), *grid)


def texts(text: Params, batch: Batch) -> Float[Array, "b m j"]:
    """The positive or the negative text of each sample of each pack, padded to the longer one."""
    slots = max(len(embedding) for embedding in text.values())
    positive, negative = (
        jnp.pad(text[name], ((0, slots - len(text[name])), (0, 0)))
        for name in ("positive", "negative")
    )
    chosen = jnp.where(batch["negative"][:, :, None, None], negative, positive)
    return chosen.reshape(chosen.shape[0], -1, chosen.shape[-1])


def predict(
    dit: DiT,
    text: Params,
    noisy: Float[Array, "s t h w c"],
    low: Float[Array, "s t h w c"],
    timestep: Float[Array, " s"],
    batch: Batch,
) -> Float[Array, "b n o"]:
    """The velocity of the kept tokens.

    Args:
      dit: with its parameters. text: ``positive`` and ``negative`` embeddings.
      noisy: x_t. low: the latent of the upscaled input. timestep: 0..1000.
      batch: its plan, and which samples take the negative text.
    """
    patches = patchify(jnp.concatenate([noisy, condition(low)], axis=-1))
    per_pack = timestep.reshape(batch["negative"].shape)
    return dit(take_kept(patches, batch["plan"]), texts(text, batch), per_pack, batch["plan"])


def velocity_error(
    predicted: Float[Array, "b n o"],
    clean: Float[Array, "s t h w c"],
    end: Float[Array, "s t h w c"],
    plan: TokenPlan,
) -> Float[Array, ""]:
    """Mean squared error of the velocity over the kept tokens; ``end`` is x_T."""
    target = take_kept(patchify(velocity(clean, end)), plan)
    error = jnp.square(predicted - target).mean(axis=-1) * plan.valid
    return error.sum() / plan.valid.sum()


def clean_latent(
    predicted: Float[Array, "b n o"],
    noisy: Float[Array, "s t h w c"],
    timestep: Float[Array, " s"],
    plan: TokenPlan,
) -> Float[Array, "s t h w c"]:
    """x_0 as the velocity says; where tokens were skipped, x_t itself."""
    none = jnp.zeros((*patchify(noisy).shape[:2], predicted.shape[-1]))
    full = unpatchify(put_kept(none, predicted, plan), _grid(noisy))
    return clean_from_velocity(full, noisy, timestep)


def skip_percent(plan: TokenPlan, latent: Float[Array, "s t h w c"]) -> Float[Array, ""]:
    """Share of the tokens that do not run."""
    t, r, q = _grid(latent)
    return 100 * (1 - plan.valid.sum() / (len(latent) * t * r * q))
