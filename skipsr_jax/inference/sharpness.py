"""Reads the weights of a run between the two sets that a checkpoint may hold (models.sharpness)."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import Params
from skipsr_jax.models.sharpness import CHANGE, SCALE, sharpened


def check_sharpness(sharpness: float, config: dict[str, Any], source: str) -> None:
    """Raises UserError where a checkpoint with this config has no weights of that sharpness."""
    if sharpness and "sharp" not in config:
        raise UserError(
            f"config.sharpness={sharpness:g}: {source} holds one set of weights: set it to 0, or "
            "take a checkpoint that checkpoints.export wrote with --sharp"
        )


def read_sharpened(source: str, shapes: Params, sharpness: float) -> Params:
    """The parameters at ``source`` with these shapes, dtypes and shardings, of that sharpness.

    The weights are added in float32 and then rounded to their dtype. Raises UserError when files of
    the checkpoint are damaged.
    """
    if not sharpness:
        return store.read_params(source, shapes)
    stored = store.stored_shapes(source)["sharp"]
    parts = [part for part in stored[CHANGE] if part in shapes]
    faithful = {part: shapes[part] for part in parts}

    def like(leaf: jax.ShapeDtypeStruct, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)

    def whole(leaf: jax.ShapeDtypeStruct, of: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        everywhere = of.sharding
        if isinstance(everywhere, NamedSharding):
            everywhere = NamedSharding(everywhere.mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

    wanted = shapes | jax.tree.map(lambda leaf: like(leaf, jnp.float32), faithful)
    wanted["sharp"] = {
        CHANGE: jax.tree.map(lambda leaf: like(leaf, jnp.int8), faithful),
        SCALE: jax.tree.map(whole, {part: stored[SCALE][part] for part in parts}, faithful),
    }
    params = store.read_params(source, wanted)
    moved = params.pop("sharp")

    def between(weights: Params, change: Params, scale: Params) -> Params:
        made = sharpened(weights, change, scale, sharpness)
        return jax.tree.map(lambda x, leaf: x.astype(leaf.dtype), made, faithful)

    shardings = jax.tree.map(lambda leaf: leaf.sharding, faithful)
    run = jax.jit(between, out_shardings=shardings, donate_argnums=0)
    return params | run({part: params[part] for part in parts}, moved[CHANGE], moved[SCALE])
