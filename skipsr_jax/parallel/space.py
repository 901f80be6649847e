"""The picture over devices: rows and columns of pixels, for the networks made of convolutions.

A device that shares a clip takes a strip of it, frames and latents alike; the compiler exchanges
the halos that convolutions need, and sums the group norms over devices. Invariant: a strip is a
whole number of latent pixels, and of the same rows or columns at every resolution.
"""

import itertools
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skipsr_jax.parallel.constrain import constrain
from skipsr_jax.parallel.placement import placement
from skipsr_jax.types import Array, Float

Cuts = tuple[tuple[str, ...], tuple[str, ...]]
"""Mesh axes over the rows, and over the columns."""


def cuts(sizes: dict[str, int], rows: int, columns: int) -> Cuts:
    """The cuts of a picture of ``rows`` x ``columns`` over mesh axes of the given sizes.

    Of all cuts that divide evenly, the one over most devices; among those, whole rows.
    """

    def parts(axes: tuple[str, ...]) -> int:
        return math.prod(sizes[axis] for axis in axes)

    found = []
    for choice in itertools.product((0, 1, None), repeat=len(sizes)):
        pair = tuple(
            tuple(axis for axis, side in zip(sizes, choice, strict=True) if side == which)
            for which in (0, 1)
        )
        if rows % parts(pair[0]) == 0 and columns % parts(pair[1]) == 0:
            found.append(pair)
    return max(found, key=lambda pair: (parts(pair[0]) * parts(pair[1]), parts(pair[0])))


def space_spec(mesh: Any, shape: tuple[int, ...], factor: int = 1) -> PartitionSpec:
    """How (b, f, h, w, c) lies on a mesh. ``factor``: pixels along a latent pixel."""
    place = placement(shape[0], mesh)
    sizes = {axis: mesh.shape[axis] for axis in place.tokens}
    over_rows, over_columns = cuts(sizes, shape[2] // factor, shape[3] // factor)
    return PartitionSpec(place.packs or None, None, over_rows or None, over_columns or None, None)


def constrain_space(x: Float[Array, "b f h w c"], factor: int = 1) -> Float[Array, "b f h w c"]:
    """``x`` in strips over the devices that share its clip. ``factor``: pixels along a latent."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return constrain(x, *space_spec(mesh, x.shape, factor))


def space_sharding(mesh: Mesh, shape: tuple[int, ...], factor: int = 1) -> NamedSharding:
    """``constrain_space`` for arrays that come from the host."""
    return NamedSharding(mesh, space_spec(mesh, shape, factor))
