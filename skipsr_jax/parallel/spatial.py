"""Spatial shards: the rows or the columns of frames over devices, for convolutional networks.

Each device that shares a clip holds a shard of its frames and latents. The compiler exchanges the
halos that convolutions need and sums the group norms over devices; attention within a frame gathers
the keys and values of the frame. Invariant: a shard has the same rows or columns at every
resolution, two latent pixels or more.
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from skipsr_jax.parallel.activations import (
    AnyMesh,
    MeshAxes,
    activation_sharding,
    constrain,
    multi_device_mesh,
)
from skipsr_jax.types import Float

MIN_LATENT_PIXELS = 2
"""Latent pixels across a shard: with one, a convolution's halo is as wide as what it surrounds."""


def spatial_axes(sizes: dict[str, int], rows: int, columns: int) -> tuple[MeshAxes, MeshAxes]:
    """The mesh axes over which rows and columns of a frame are sharded, out of those in ``sizes``.

    Either rows or columns are sharded, evenly, over as many devices as that allows; rows if both
    allow as many. They are never both sharded: the compiler (XLA as of jax 0.10) gets convolutions
    on thin tiles wrong.
    """
    best, most = ((), ()), 1
    for count in range(1, len(sizes) + 1):
        for axes in itertools.combinations(sizes, count):
            shards = math.prod(sizes[axis] for axis in axes)
            for length, pair in ((rows, (axes, ())), (columns, ((), axes))):
                wide = length // shards >= MIN_LATENT_PIXELS
                if shards > most and length % shards == 0 and wide:
                    best, most = pair, shards
    return best


def spatial_spec(mesh: AnyMesh, shape: tuple[int, ...], factor: int = 1) -> PartitionSpec:
    """The sharding of (b, f, h, w, c) on a mesh. ``factor``: pixels along a latent pixel."""
    sharding = activation_sharding(shape[0], mesh)
    sizes = {axis: mesh.shape[axis] for axis in sharding.tokens}
    row_axes, column_axes = spatial_axes(sizes, shape[2] // factor, shape[3] // factor)
    return PartitionSpec(sharding.packs or None, None, row_axes or None, column_axes or None, None)


def constrain_spatial(x: Float[Array, "b f h w c"], factor: int = 1) -> Float[Array, "b f h w c"]:
    """``x`` in spatial shards over the devices that share its clip.

    ``factor``: pixels along a latent pixel.
    """
    mesh = multi_device_mesh()
    return x if mesh is None else constrain(x, *spatial_spec(mesh, x.shape, factor))


def spatial_sharding(mesh: Mesh, shape: tuple[int, ...], factor: int = 1) -> NamedSharding:
    """``constrain_spatial`` for arrays that come from the host."""
    return NamedSharding(mesh, spatial_spec(mesh, shape, factor))


def spatial_shards(mesh: Mesh, height: int, width: int, factor: int) -> int:
    """The number of spatial shards of one clip of ``height`` x ``width`` pixels."""
    shape = (1, 1, height, width, 1)
    return math.prod(shape) // math.prod(spatial_sharding(mesh, shape, factor).shard_shape(shape))


def attend_within_frames(
    attend: Callable[[Array, Array, Array], Array],
    q: Float[Array, "b f h w c"],
    k: Float[Array, "b f h w c"],
    v: Float[Array, "b f h w c"],
) -> Float[Array, "b f h w c"]:
    """``attend(q, k, v)`` frame by frame; each device attends with the queries of its own shard.

    ``attend`` takes queries (f, queries, c) and keys and values (f, keys, c) of frames, whose keys
    may be in any order, and returns (f, queries, c). Frames are those of the lowest resolution.
    """

    def flat(x: Array) -> Array:
        return x.reshape(-1, x.shape[2] * x.shape[3], x.shape[4])

    def on_device(q: Array, k: Array, v: Array, spec: PartitionSpec) -> Array:
        for axis in (2, 3):
            if spec[axis]:
                k, v = (jax.lax.all_gather(x, spec[axis], axis=axis, tiled=True) for x in (k, v))
        return attend(flat(q), flat(k), flat(v)).reshape(q.shape)

    mesh = multi_device_mesh()
    if mesh is None:
        return on_device(q, k, v, PartitionSpec(*[None] * 5))
    spec = spatial_spec(mesh, q.shape)
    on_device = functools.partial(on_device, spec=spec)
    return jax.shard_map(on_device, in_specs=(spec,) * 3, out_specs=spec)(q, k, v)
