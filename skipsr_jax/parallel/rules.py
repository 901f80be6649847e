"""How parameters are sharded over the mesh: one table, first match wins.

A rule is a pattern over the path of a parameter and the mesh axes of its LAST axes, so that a
stack of layers is sharded as one layer is. Optimizer moments and EMA have the paths of their
parameters as suffixes, so the same table holds for them. Shards that do not divide an axis are left
out.
"""

import math
import re
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from skipsr_jax.parallel.activations import AnyMesh

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(^|/)text/", ()),  # a few vectors, read by every device
    (r"(^|/)(out|to_out|vid_out|conv_out)(/\w+)*/kernel$", ("fsdp", None)),  # input features
    (r"/kernel$", ("fsdp",)),  # output features
    (r"/quantized_kernel$", ("fsdp", None)),  # output features, which are stored first
    (r"/kernel_scale$", ("fsdp",)),
    (r"", ()),
)


def path_of(keys: tuple[Any, ...]) -> str:
    """``params/dit/vid_in/kernel`` for the key path of a leaf."""
    return "/".join(str(jax.tree_util.keystr((key,), simple=True)) for key in keys)


def spec_for(path: str, shape: tuple[int, ...], mesh: AnyMesh) -> PartitionSpec:
    """The sharding of one parameter."""
    axes = next(axes for pattern, axes in RULES if re.search(pattern, path))
    if len(axes) > len(shape):
        return PartitionSpec()
    named = (None,) * (len(shape) - len(axes)) + axes
    return PartitionSpec(
        *(
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for size, axis in zip(shape, named, strict=True)
        )
    )


def shardings(tree: Any, mesh: AnyMesh) -> Any:
    """A ``NamedSharding`` for every leaf (array or shape) of ``tree``."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: NamedSharding(mesh, spec_for(path_of(keys), leaf.shape, mesh)), tree
    )


def bytes_per_device(tree: Any, mesh: AnyMesh) -> int:
    """Bytes that one device holds of ``tree`` (arrays or shapes) under the table."""
    sizes = jax.tree.map(
        lambda leaf, sharding: math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize,
        tree,
        shardings(tree, mesh),
    )
    return sum(jax.tree.leaves(sizes))
