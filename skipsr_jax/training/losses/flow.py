"""Flow matching on kept tokens, from latents on: what every stage that trains a transformer shares.

x_t = (1 - u) x_0 + u x_T with x_0 the latent of the true clip; the transformer sees x_t, the latent
of the upscaled input and a text, and predicts v = x_T - x_0 for the kept tokens. A sequence may
hold samples of several shapes: latents come as a tuple with an array for each shape, and what there
is one of for each sample as (b, k), samples in the order of the pack. Invariants: skipped tokens
are in no computation and in no loss (paper section 4.2); the loss is the mean over kept tokens,
whatever shapes they come from.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.config import require
from skipsr_jax.data.batch import Batch
from skipsr_jax.data.packing import Packing
from skipsr_jax.diffusion.condition import add_condition_noise, condition
from skipsr_jax.diffusion.schedule import add_noise, clean_from_velocity, velocity
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.params import Params
from skipsr_jax.tokens.patches import (
    gather_kept,
    join_channels,
    patchify,
    scatter_kept,
    unpatchify,
)
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.types import Bool, Float

TEXTS = frozenset({"text/positive", "text/negative"})
"""Paths of the texts among the parameters."""

Latents = tuple[Float[Array, "_ _ _ _ _"], ...]
"""Of the samples of a batch, (s, t, h, w, c) for each shape; s = b * samples of it in a pack."""


@dataclasses.dataclass(frozen=True)
class TokenChoice:
    """Which tokens run and how they are packed: part of the section ``loss`` of these stages.

    Attributes:
      text_lengths: tokens of the positive and the negative text.
      samples_per_pack: samples of one shape in a sequence; ``data.pack`` mixes shapes instead.
      kept_share, dense_share, random_drop: see Packing.
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


def by_pack(values: Sequence[Array], packs: int) -> Array:
    """What each shape has for its samples, (s, ...) -> (b, k, ...), in the order of the pack."""
    return jnp.concatenate([x.reshape(packs, -1, *x.shape[1:]) for x in values], axis=1)


def of_shapes(values: Array, latents: Latents) -> tuple[Array, ...]:
    """The inverse of ``by_pack``: (b, k) -> (s,) for each shape."""
    counts = [len(x) // len(values) for x in latents]
    parts = jnp.split(values, np.cumsum(counts)[:-1], axis=1)
    return tuple(part.reshape(-1) for part in parts)


def noise_like(latents: Latents, key: Array) -> Latents:
    """Standard normal numbers in the shapes of ``latents``."""
    return tuple(
        jax.random.normal(jax.random.fold_in(key, number), x.shape)
        for number, x in enumerate(latents)
    )


def noised_condition(low: Latents, level: float, key: Array) -> Latents:
    """The conditions with noise of this level, shifted with the size of each clip."""
    return tuple(
        add_condition_noise(x, noise, level, x.shape[1:4])
        for x, noise in zip(low, noise_like(low, key), strict=True)
    )


def noisy_latents(clean: Latents, end: Latents, timestep: Float[Array, "b k"]) -> Latents:
    """x_t; ``end`` is x_T."""
    parts = zip(clean, end, of_shapes(timestep, clean), strict=True)
    return tuple(add_noise(*part) for part in parts)


def take_kept(patches: Sequence[Float[Array, "_ _ _"]], plan: TokenPlan) -> Float[Array, "b n i"]:
    """The kept ones of patches (s, p, i) of each shape, in the plan's order; padding is zero."""
    return gather_kept(_laid_out(patches, len(plan.patch_index)), plan.patch_index)


def put_kept(
    patches: Sequence[Float[Array, "_ _ _"]], tokens: Float[Array, "b n i"], plan: TokenPlan
) -> tuple[Float[Array, "_ _ _"], ...]:
    """``patches`` with the kept ones replaced by ``tokens``."""
    packs = len(plan.patch_index)
    laid = scatter_kept(_laid_out(patches, packs), tokens, plan.patch_index)
    ends = np.cumsum([len(x) // packs * x.shape[1] for x in patches])[:-1]
    parts = jnp.split(laid, ends, axis=1)
    return tuple(part.reshape(x.shape) for part, x in zip(parts, patches, strict=True))


def _laid_out(patches: Sequence[Float[Array, "_ _ _"]], packs: int) -> Float[Array, "b p i"]:
    """The patches of each pack's samples end to end."""
    ends = [x.reshape(packs, -1, x.shape[-1]) for x in patches]
    return jnp.concatenate(ends, axis=1)


def kept_tokens(latents: Latents, plan: TokenPlan) -> Float[Array, "b n i"]:
    """The kept tokens of the samples' latents, i = 4 c."""
    return take_kept([patchify(x) for x in latents], plan)


def _grid(latent: Float[Array, "s t h w c"]) -> tuple[int, int, int]:
    return latent.shape[1], latent.shape[2] // 2, latent.shape[3] // 2


def kept_patches(plan: TokenPlan, latents: Latents) -> tuple[Bool[Array, "_ _ _ _"], ...]:
    """The keep mask (s, t, r, q) of each sample, as the plan has it; latents give the grids."""
    none = [jnp.zeros((len(x), math.prod(_grid(x)), 1)) for x in latents]
    ones = jnp.ones((*plan.patch_index.shape, 1))
    return tuple(
        (kept > 0).reshape(len(x), *_grid(x))
        for kept, x in zip(put_kept(none, ones, plan), latents, strict=True)
    )


def texts(text: Params, is_negative: Bool[Array, "b k"]) -> Float[Array, "b m j"]:
    """The positive or the negative text of each sample of each pack, padded to the longer one."""
    slots = max(len(embedding) for embedding in text.values())
    positive, negative = (
        jnp.pad(text[name], ((0, slots - len(text[name])), (0, 0)))
        for name in ("positive", "negative")
    )
    chosen = jnp.where(is_negative[:, :, None, None], negative, positive)
    return chosen.reshape(chosen.shape[0], -1, chosen.shape[-1])


def predict_tokens(
    dit: DiT,
    text: Float[Array, "b m j"],
    noisy: Float[Array, "b n x"],
    conditions: Float[Array, "b n y"],
    timestep: Float[Array, "b k"],
    plan: TokenPlan,
) -> Float[Array, "b n o"]:
    """The velocity of the kept tokens, from those of x_t and of ``condition``."""
    return dit(join_channels(noisy, conditions), text, timestep, plan)


def condition_tokens(
    low: Latents, plan: TokenPlan, has_condition: Bool[Array, "b k"] | None = None
) -> Float[Array, "b n y"]:
    """The kept tokens of ``condition``; ``has_condition``: which samples see ``low``."""
    flags = (None,) * len(low) if has_condition is None else of_shapes(has_condition, low)
    return kept_tokens(tuple(condition(*part) for part in zip(low, flags, strict=True)), plan)


def predict(
    dit: DiT,
    text: Params,
    noisy: Latents,
    low: Latents,
    timestep: Float[Array, "b k"],
    batch: Batch,
    has_condition: Bool[Array, "b k"] | None = None,
) -> Float[Array, "b n o"]:
    """The velocity of the kept tokens.

    Args:
      dit: with its parameters. text: ``positive`` and ``negative`` embeddings.
      noisy: x_t. low: the latents of the upscaled inputs. timestep: 0..1000.
      batch: its plan, and which samples take the negative text.
      has_condition: which samples see ``low``; None means all.
    """
    plan = batch.plan
    conditions = condition_tokens(low, plan, has_condition)
    return predict_tokens(
        dit, texts(text, batch.negative), kept_tokens(noisy, plan), conditions, timestep, plan
    )


def of_tokens(values: Float[Array, "b k"], plan: TokenPlan) -> Float[Array, "b n"]:
    """For each stored token what its sample has."""
    return jnp.take_along_axis(values, plan.sample, axis=1)


def mean_over_kept(values: Float[Array, "b n o"], plan: TokenPlan) -> Float[Array, ""]:
    """The mean over the kept tokens and their channels; padding has no part in it."""
    return (values.mean(axis=-1) * plan.valid).sum() / plan.valid.sum()


def velocity_error(
    predicted: Float[Array, "b n o"], clean: Latents, end: Latents, plan: TokenPlan
) -> Float[Array, ""]:
    """Mean squared error of the velocity over the kept tokens; ``end`` is x_T."""
    target = tuple(velocity(*part) for part in zip(clean, end, strict=True))
    return mean_over_kept(jnp.square(predicted - kept_tokens(target, plan)), plan)


def clean_latents(
    predicted: Float[Array, "b n o"],
    noisy: Latents,
    timestep: Float[Array, "b k"],
    plan: TokenPlan,
) -> Latents:
    """x_0 as the velocity says; where tokens were skipped, x_t itself."""
    none = [jnp.zeros((*patchify(x).shape[:2], predicted.shape[-1])) for x in noisy]
    parts = zip(put_kept(none, predicted, plan), noisy, of_shapes(timestep, noisy), strict=True)
    return tuple(clean_from_velocity(unpatchify(v, _grid(x)), x, time) for v, x, time in parts)


def skip_percent(plan: TokenPlan, latents: Latents) -> Float[Array, ""]:
    """Share of the tokens that do not run."""
    tokens = sum(len(x) * math.prod(_grid(x)) for x in latents)
    return 100 * (1 - plan.valid.sum() / tokens)
