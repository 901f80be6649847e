"""Flow matching on kept tokens, from latents on: what every stage that trains a transformer shares.

x_t = (1 - u) x_0 + u x_T with x_0 the latent of the true clip; the transformer sees x_t, the latent
of the upscaled input and a text, and predicts v = x_T - x_0 for the kept tokens. Invariant: skipped
tokens are in no computation and in no loss (paper section 4.2).
"""

import dataclasses

import jax.numpy as jnp

from skipsr_jax.data.dataset import Packing
from skipsr_jax.diffusion.condition import condition
from skipsr_jax.diffusion.schedule import clean_from_velocity, velocity
from skipsr_jax.models.dit import DiT
from skipsr_jax.nn.params import Params
from skipsr_jax.tokens.patches import (
    gather_kept,
    join_channels,
    patchify,
    scatter_kept,
    unpatchify,
)
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.training.settings import require
from skipsr_jax.training.stage import Batch
from skipsr_jax.types import Array, Bool, Float

TEXTS = frozenset({"text/positive", "text/negative"})
"""Paths of the texts among the parameters."""


@dataclasses.dataclass(frozen=True)
class TokenChoice:
    """Which tokens run and how they are packed: part of the section ``loss`` of these stages.

    Attributes:
      text_lengths: tokens of the positive and the negative text.
      samples_per_pack, kept_share, dense_share, random_drop: see Packing.
    """

    text_lengths: tuple[int, int] = (8, 8)
    samples_per_pack: int = 1
    kept_share: float = 1.0
    dense_share: float = 0.1
    random_drop: float = 0.1

    def __post_init__(self):
        for name in ("dense_share", "random_drop"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "from 0 to 1")
        require(0 < self.kept_share <= 1, "kept_share", self.kept_share, "above 0, up to 1")
        require(min(self.text_lengths) >= 1, "text_lengths", self.text_lengths, "at least 1")
        require(self.samples_per_pack >= 1, "samples_per_pack", self.samples_per_pack, "at least 1")

    @property
    def packing(self) -> Packing:
        """How the workers make plans; all samples take the positive text."""
        return Packing(
            samples=self.samples_per_pack,
            kept_share=self.kept_share,
            dense_share=self.dense_share,
            random_drop=self.random_drop,
            negative_share=0.0,
            text_lengths=self.text_lengths,
        )


def _laid_out(patches: Float[Array, "s p i"], packs: int) -> Float[Array, "b kp i"]:
    """The patches of each pack's samples end to end."""
    return patches.reshape(packs, -1, patches.shape[-1])


def take_kept(patches: Float[Array, "s p i"], plan: TokenPlan) -> Float[Array, "b n i"]:
    """The kept patches in the plan's order; padding is zero."""
    return gather_kept(_laid_out(patches, len(plan.patch_index)), plan.patch_index)


def put_kept(
    patches: Float[Array, "s p i"], tokens: Float[Array, "b n i"], plan: TokenPlan
) -> Float[Array, "s p i"]:
    """``patches`` with the kept ones replaced by ``tokens``."""
    laid = _laid_out(patches, len(plan.patch_index))
    return scatter_kept(laid, tokens, plan.patch_index).reshape(patches.shape)


def kept_tokens(latent: Float[Array, "s t h w c"], plan: TokenPlan) -> Float[Array, "b n i"]:
    """The kept tokens of the samples' latents, i = 4 c."""
    return take_kept(patchify(latent), plan)


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


def predict_tokens(
    dit: DiT,
    text: Float[Array, "b m j"],
    noisy: Float[Array, "b n x"],
    conditions: Float[Array, "b n y"],
    timestep: Float[Array, " s"],
    plan: TokenPlan,
) -> Float[Array, "b n o"]:
    """The velocity of the kept tokens, from those of x_t and of ``condition``."""
    per_pack = timestep.reshape(plan.text_length.shape)
    return dit(join_channels(noisy, conditions), text, per_pack, plan)


def predict(
    dit: DiT,
    text: Params,
    noisy: Float[Array, "s t h w c"],
    low: Float[Array, "s t h w c"],
    timestep: Float[Array, " s"],
    batch: Batch,
    present: Bool[Array, " s"] | None = None,
) -> Float[Array, "b n o"]:
    """The velocity of the kept tokens.

    Args:
      dit: with its parameters. text: ``positive`` and ``negative`` embeddings.
      noisy: x_t. low: the latent of the upscaled input. timestep: 0..1000.
      batch: its plan, and which samples take the negative text.
      present: the samples that are told of ``low``; None: all.
    """
    plan = batch["plan"]
    noisy, conditions = kept_tokens(noisy, plan), kept_tokens(condition(low, present), plan)
    return predict_tokens(dit, texts(text, batch), noisy, conditions, timestep, plan)


def token_timesteps(timestep: Float[Array, " s"], plan: TokenPlan) -> Float[Array, "b n"]:
    """The timestep of each stored token: that of its sample."""
    return jnp.take_along_axis(timestep.reshape(plan.text_length.shape), plan.sample, axis=1)


def mean_over_kept(values: Float[Array, "b n o"], plan: TokenPlan) -> Float[Array, ""]:
    """The mean over the kept tokens and their channels; padding has no part in it."""
    return (values.mean(axis=-1) * plan.valid).sum() / plan.valid.sum()


def velocity_error(
    predicted: Float[Array, "b n o"],
    clean: Float[Array, "s t h w c"],
    end: Float[Array, "s t h w c"],
    plan: TokenPlan,
) -> Float[Array, ""]:
    """Mean squared error of the velocity over the kept tokens; ``end`` is x_T."""
    target = kept_tokens(velocity(clean, end), plan)
    return mean_over_kept(jnp.square(predicted - target), plan)


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
