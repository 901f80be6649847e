"""Flow matching on kept tokens: what every stage that trains a transformer shares.

x_t = (1 - u) x_0 + u x_T with x_0 the latent of the true clip and u = timestep / 1000; the
transformer takes x_t, the condition (latent of the upscaled input) and a text, and predicts
v = x_T - x_0 for the kept tokens. Invariants: skipped tokens are in no computation and in no loss
(paper section 4.2); the loss is the mean over kept tokens, whatever shapes they come from.
"""

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.data.batch import Batch
from skipsr_jax.diffusion.condition import add_condition_noise, condition
from skipsr_jax.diffusion.schedule import TERMINAL, add_noise, clean_from_velocity, velocity
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.params import Params
from skipsr_jax.tokens.patches import join_channels
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.training.packed import (
    Latents,
    by_shape,
    kept_tokens,
    latents_of_tokens,
    mean_over_kept,
)
from skipsr_jax.types import Bool, Float


def noise_like(latents: Latents, key: Array) -> Latents:
    """Standard normal numbers in the shapes of ``latents``."""
    return tuple(
        jax.random.normal(jax.random.fold_in(key, number), x.shape)
        for number, x in enumerate(latents)
    )


def noised_condition(lr_latents: Latents, level: float, key: Array) -> Latents:
    """Latents of the upscaled inputs with noise of this level, shifted with each clip's size."""
    return tuple(
        add_condition_noise(x, noise, level, x.shape[1:4])
        for x, noise in zip(lr_latents, noise_like(lr_latents, key), strict=True)
    )


def noisy_latents(clean: Latents, end: Latents, timestep: Float[Array, "b k"]) -> Latents:
    """x_t, from ``clean`` = x_0 and ``end`` = x_T."""
    parts = zip(clean, end, by_shape(timestep, clean), strict=True)
    return tuple(add_noise(*part) for part in parts)


def text_tokens(text: Params, is_negative: Bool[Array, "b k"]) -> Float[Array, "b m text_width"]:
    """The positive or the negative text of each sample of each pack, padded to the longer one."""
    slots = max(len(embedding) for embedding in text.values())
    positive, negative = (
        jnp.pad(text[name], ((0, slots - len(text[name])), (0, 0)))
        for name in ("positive", "negative")
    )
    chosen = jnp.where(is_negative[:, :, None, None], negative, positive)
    return chosen.reshape(chosen.shape[0], -1, chosen.shape[-1])


def condition_tokens(
    conditions: Latents, plan: TokenPlan, has_condition: Bool[Array, "b k"] | None = None
) -> Float[Array, "b n condition_i"]:
    """The kept tokens of the condition, the channel of ones included.

    ``has_condition``: false for samples whose condition is zeros; None means that all have one.
    """
    flags = (None,) * len(conditions)
    if has_condition is not None:
        flags = by_shape(has_condition, conditions)
    parts = zip(conditions, flags, strict=True)
    return kept_tokens(tuple(condition(*part) for part in parts), plan)


def predict_tokens(
    dit: DiT,
    text: Float[Array, "b m text_width"],
    noisy: Float[Array, "b n noisy_i"],
    conditions: Float[Array, "b n condition_i"],
    timestep: Float[Array, "b k"],
    plan: TokenPlan,
) -> Float[Array, "b n o"]:
    """The velocity of the kept tokens, from the tokens of x_t and of the condition."""
    with jax.named_scope("dit"):
        return dit(join_channels(noisy, conditions), text, timestep, plan)


def predict(
    dit: DiT,
    text: Params,
    noisy: Latents,
    conditions: Latents,
    timestep: Float[Array, "b k"],
    batch: Batch,
    has_condition: Bool[Array, "b k"] | None = None,
) -> Float[Array, "b n o"]:
    """The velocity of the kept tokens.

    Args:
      dit: with its parameters.
      text: ``positive`` and ``negative`` embeddings.
      noisy: x_t.
      conditions: latents of the upscaled inputs, with their noise.
      timestep: 0 to 1000.
      batch: its plan, and which samples take the negative text.
      has_condition: as in ``condition_tokens``.
    """
    plan = batch.plan
    tokens = condition_tokens(conditions, plan, has_condition)
    texts = text_tokens(text, batch.negative)
    return predict_tokens(dit, texts, kept_tokens(noisy, plan), tokens, timestep, plan)


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
    """x_0 from the predicted velocity of the kept tokens; x_t itself where tokens were skipped."""
    velocities = latents_of_tokens(predicted, plan, noisy)
    parts = zip(velocities, noisy, by_shape(timestep, noisy), strict=True)
    return tuple(clean_from_velocity(v, x, time) for v, x, time in parts)


def one_step(
    dit: DiT,
    text: Params,
    lr_latents: Latents,
    batch: Batch,
    condition_noise: float,
    keys: tuple[Array, Array],
) -> tuple[Latents, Latents]:
    """One step from pure noise: the latents that it ends at, and the noised conditions.

    Where tokens are skipped the first are noise.

    Args:
      dit, text, batch: as in ``predict``.
      lr_latents: of the upscaled inputs.
      condition_noise: level of the noise on them, 0 to 1.
      keys: of the noise to start from, and of the condition's noise.
    """
    start = noise_like(lr_latents, keys[0])
    conditions = noised_condition(lr_latents, condition_noise, keys[1])
    timestep = jnp.full(batch.plan.text_length.shape, TERMINAL)
    predicted = predict(dit, text, start, conditions, timestep, batch)
    return clean_latents(predicted, start, timestep, batch.plan), conditions
