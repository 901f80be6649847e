"""Samples and packs: latents of samples in several shapes <-> kept tokens of a pack.

A pack may hold samples of several shapes. Latents come as a tuple with one array for each shape;
what there is one of for each sample (a timestep) comes as (b, k), samples in the order of the pack.
Invariant: the tokens of a pack are its kept tokens, in the order of its plan; nothing of a skipped
token reaches them.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.geometry import PATCH
from skipsr_jax.tokens.patches import gather_kept, patchify, scatter_kept, unpatchify
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.types import Bool, Float

Latents = tuple[Float[Array, "_ _ _ _ _"], ...]
"""Latents of the samples of a batch: (samples, t, h, w, c) for each shape, the samples of a pack
one after the other."""


def by_pack(values: Sequence[Array], packs: int) -> Array:
    """What each shape has for its samples, (samples, ...) -> (b, k, ...), in the pack's order."""
    return jnp.concatenate([x.reshape(packs, -1, *x.shape[1:]) for x in values], axis=1)


def by_shape(values: Array, latents: Latents) -> tuple[Array, ...]:
    """The inverse of ``by_pack``: (b, k) -> (samples,) for each shape of ``latents``."""
    counts = [len(x) // len(values) for x in latents]
    parts = jnp.split(values, np.cumsum(counts)[:-1], axis=1)
    return tuple(part.reshape(-1) for part in parts)


def gather_patches(
    patches: Sequence[Float[Array, "_ _ _"]], plan: TokenPlan
) -> Float[Array, "b n i"]:
    """The kept patches in the plan's order, of patches (samples, t * r * q, i) of each shape.

    Padding is zero.
    """
    return gather_kept(_end_to_end(patches, len(plan.patch_index)), plan.patch_index)


def scatter_patches(
    patches: Sequence[Float[Array, "_ _ _"]], tokens: Float[Array, "b n i"], plan: TokenPlan
) -> tuple[Float[Array, "_ _ _"], ...]:
    """``patches`` with the kept ones replaced by ``tokens``."""
    packs = len(plan.patch_index)
    joined = scatter_kept(_end_to_end(patches, packs), tokens, plan.patch_index)
    ends = np.cumsum([len(x) // packs * x.shape[1] for x in patches])[:-1]
    parts = jnp.split(joined, ends, axis=1)
    return tuple(part.reshape(x.shape) for part, x in zip(parts, patches, strict=True))


def _end_to_end(
    patches: Sequence[Float[Array, "_ _ _"]], packs: int
) -> Float[Array, "b patches i"]:
    """The patches of each pack's samples one after the other, as ``plan.patch_index`` counts."""
    rows = [x.reshape(packs, -1, x.shape[-1]) for x in patches]
    return jnp.concatenate(rows, axis=1)


def kept_tokens(latents: Latents, plan: TokenPlan) -> Float[Array, "b n i"]:
    """The kept tokens of the samples' latents, i = 4 c."""
    return gather_patches([patchify(x) for x in latents], plan)


def latents_of_tokens(tokens: Float[Array, "b n i"], plan: TokenPlan, shapes: Latents) -> Latents:
    """The inverse of ``kept_tokens``: latents on the grids of ``shapes``, zero where skipped."""
    patches = [jnp.zeros((*patchify(x).shape[:2], tokens.shape[-1])) for x in shapes]
    parts = scatter_patches(patches, tokens, plan)
    return tuple(unpatchify(part, _grid(x)) for part, x in zip(parts, shapes, strict=True))


def _grid(latent: Float[Array, "samples t h w c"]) -> tuple[int, int, int]:
    return latent.shape[1], latent.shape[2] // PATCH, latent.shape[3] // PATCH


def kept_patches(plan: TokenPlan, latents: Latents) -> tuple[Bool[Array, "_ _ _ _"], ...]:
    """The plan's keep mask (samples, t, r, q) for each shape of ``latents``."""
    none = [jnp.zeros((len(x), math.prod(_grid(x)), 1)) for x in latents]
    ones = jnp.ones((*plan.patch_index.shape, 1))
    return tuple(
        (kept > 0).reshape(len(x), *_grid(x))
        for kept, x in zip(scatter_patches(none, ones, plan), latents, strict=True)
    )


def of_tokens(values: Float[Array, "b k"], plan: TokenPlan) -> Float[Array, "b n"]:
    """For each stored token what its sample has."""
    return jnp.take_along_axis(values, plan.sample, axis=1)


def mean_over_kept(values: Float[Array, "b n o"], plan: TokenPlan) -> Float[Array, ""]:
    """The mean over the kept tokens of all packs and over their channels, without the padding."""
    return (values.mean(axis=-1) * plan.valid).sum() / plan.valid.sum()


def skip_percent(plan: TokenPlan, latents: Latents) -> Float[Array, ""]:
    """Percentage of the tokens of all samples that do not run."""
    tokens = sum(len(x) * math.prod(_grid(x)) for x in latents)
    return 100 * (1 - plan.valid.sum() / tokens)
