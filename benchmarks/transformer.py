"""The transformer with random numbers, as inference calls it: what several benchmarks time."""

from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from skipsr_jax.geometry import PATCH_AREA
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import abstract, to_dict
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.tokens.plan import TokenPlan, build_plan, roomy_bucket
from skipsr_jax.types import Bool, HostArray

TEXT_TOKENS = 58
"""Of the published positive embedding."""


def abstract_transformer(config: DiTConfig, dtype: Any, attention: str | None = None) -> DiT:
    """The module as shapes, stored and computed in ``dtype``."""
    kind = {"dtype": np.dtype(dtype), "param_dtype": np.dtype(dtype), "attention": attention}
    return abstract(lambda: DiT(config, rngs=nnx.Rngs(0), **kind))


def random_parameters(module: nnx.Module, mesh: Mesh) -> Any:
    """Numbers of a fan-in's size, each device's part made on it; the same on any mesh."""
    shapes = to_dict(module)

    def make(key: jax.Array) -> Any:
        leaves, structure = jax.tree.flatten(shapes)
        keys = jax.random.split(key, len(leaves))

        def draw(key: jax.Array, leaf: Any) -> jax.Array:
            scale = leaf.shape[-2] ** -0.5 if leaf.shape[-2:-1] else 1.0
            return (scale * jax.random.normal(key, leaf.shape)).astype(leaf.dtype)

        made = [draw(key, leaf) for key, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(structure, made)

    return jax.jit(make, out_shardings=shardings(shapes, mesh))(jax.random.key(0))


def plan_for(keep: Bool[HostArray, "t r q"], shards: int = 1) -> TokenPlan:
    """The plan of one clip in the bucket that inference takes."""
    return build_plan([keep], [TEXT_TOKENS], roomy_bucket([keep], shards), shards=shards)


def random_inputs(config: DiTConfig, plan: TokenPlan, dtype: Any) -> tuple[Any, ...]:
    """What ``inference.programs.velocity_step`` takes after the parameters, on the host."""
    rng = np.random.default_rng(1)
    sizes = (config.out_channels, config.in_channels - config.out_channels)
    rows = plan.patch_index.shape
    text = rng.standard_normal((1, TEXT_TOKENS, config.text_width), np.float32)
    tokens = [rng.standard_normal((*rows, PATCH_AREA * c), np.float32) for c in sizes]
    return *tokens, text.astype(dtype), np.float32(1000), plan
