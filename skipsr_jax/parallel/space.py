"""The picture over devices: rows and columns of pixels, for the networks made of convolutions.

A device that shares a clip takes a strip of it, frames and latents alike; the compiler exchanges
the halos that convolutions need, and sums the group norms over devices; attention within a frame
gathers the keys and values of the frame. Invariant: a strip has the same rows or columns at every
resolution, two latent pixels or more.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skipsr_jax.parallel.constrain import constrain
from skipsr_jax.parallel.placement import placement
from skipsr_jax.types import Float

Cuts = tuple[tuple[str, ...], tuple[str, ...]]
"""Mesh axes over the rows, and over the columns."""

THINNEST = 2
"""Latent pixels across a strip: with one, a convolution's halo is as wide as what it surrounds."""


def cuts(sizes: dict[str, int], rows: int, columns: int) -> Cuts:
    """The cut of a picture of ``rows`` x ``columns`` over mesh axes of the given sizes.

    Either rows or columns are cut, evenly, over as many devices as that allows; of both, rows.
    Never both: the compiler (XLA as of jax 0.10) gets convolutions on thin tiles wrong.
    """
    best, most = ((), ()), 1
    for count in range(1, len(sizes) + 1):
        for axes in itertools.combinations(sizes, count):
            parts = math.prod(sizes[axis] for axis in axes)
            for length, pair in ((rows, (axes, ())), (columns, ((), axes))):
                if parts > most and length % parts == 0 and length // parts >= THINNEST:
                    best, most = pair, parts
    return best


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


def strips(mesh: Mesh, height: int, width: int, factor: int) -> int:
    """Over how many devices one picture of ``height`` x ``width`` pixels is cut."""
    shape = (1, 1, height, width, 1)
    return math.prod(shape) // math.prod(space_sharding(mesh, shape, factor).shard_shape(shape))


def space_sharding(mesh: Mesh, shape: tuple[int, ...], factor: int = 1) -> NamedSharding:
    """``constrain_space`` for arrays that come from the host."""
    return NamedSharding(mesh, space_spec(mesh, shape, factor))


def attend_within_frames(
    attend: Callable[[Array, Array, Array], Array],
    q: Float[Array, "b f h w c"],
    k: Float[Array, "b f h w c"],
    v: Float[Array, "b f h w c"],
) -> Float[Array, "b f h w c"]:
    """``attend(q, k, v)`` frame by frame, each device on its clips' queries of its own strip.

    ``attend`` takes frames (f, i, c), (f, j, c), (f, j, c), whose keys may stand in any order, and
    gives (f, i, c). Pictures are those of the lowest resolution.
    """

    def flat(x: Array) -> Array:
        return x.reshape(-1, x.shape[2] * x.shape[3], x.shape[4])

    def on_device(q: Array, k: Array, v: Array, spec: PartitionSpec) -> Array:
        for axis in (2, 3):
            if spec[axis]:
                k, v = (jax.lax.all_gather(x, spec[axis], axis=axis, tiled=True) for x in (k, v))
        return attend(flat(q), flat(k), flat(v)).reshape(q.shape)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return on_device(q, k, v, PartitionSpec(*[None] * 5))
    spec = space_spec(mesh, q.shape)
    on_device = functools.partial(on_device, spec=spec)
    return jax.shard_map(on_device, in_specs=(spec,) * 3, out_specs=spec)(q, k, v)
