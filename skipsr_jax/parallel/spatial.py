"""Spatial shards: the rows or the columns of frames over devices, for convolutional networks.

Each device that shares a clip holds a shard of its frames and latents. The compiler exchanges the
halos that convolutions need and sums the group norms over devices; attention within a frame gathers
the keys and values of the frame. Invariant: a shard has the same rows or columns at every
resolution, two latent pixels or more. ``map_with_halos`` exchanges a halo by hand, for
networks that take off the border what they depend on.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
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


def _exchanged(x: Array, axis: int, halo: int, names: MeshAxes) -> Array:
    """A device's shard along ``axis`` between ``halo`` rows of the shards around it.

    Beyond the frame the halo holds copies of the frame's border. Runs inside ``shard_map``.
    """
    rows, shards = x.shape[axis], jax.lax.axis_size(names)
    away = -(-halo // rows)  # a halo may be wider than a shard
    parts = []
    for distance in range(-away, away + 1):
        pairs = [(i + distance, i) for i in range(shards) if 0 <= i + distance < shards]
        parts.append(x if distance == 0 else jax.lax.ppermute(x, names, pairs))
    first = jax.lax.axis_index(names) * rows
    row = jnp.clip(jnp.arange(-halo, rows + halo) + first, 0, rows * shards - 1)
    return jnp.take(jnp.concatenate(parts, axis), row - first + away * rows, axis)


def with_halo(
    x: Float[Array, "b f h w c"], halo: int, spec: PartitionSpec | None = None
) -> Float[Array, "b f h_out w_out c"]:
    """``x`` with ``halo`` more pixels at each side: copies of the border, and inside ``shard_map``,
    where ``x`` is a shard of ``spec``, the pixels of other shards."""
    for axis in (2, 3):
        if spec is not None and spec[axis]:
            names = (spec[axis],) if isinstance(spec[axis], str) else tuple(spec[axis])
            x = _exchanged(x, axis, halo, names)
        else:
            widths = [(halo, halo) if i == axis else (0, 0) for i in range(x.ndim)]
            x = jnp.pad(x, widths, mode="edge")
    return x


def map_with_halos(
    module: nnx.Module,
    function: Callable[..., Array],
    inputs: Sequence[tuple[Float[Array, "b _ _ _ _"], int, int]],
) -> Float[Array, "b f h w c"]:
    """``function(module, *inputs)`` with a halo around each input, device by device.

    Args:
      module: its parameters are whole on every device.
      function: takes off what the halos add, and returns frames in the same spatial shards.
      inputs: each (frames, halo in pixels, pixels along a latent pixel).
    """
    mesh = multi_device_mesh()
    if mesh is None:
        return function(module, *(with_halo(x, halo) for x, halo, _ in inputs))
    graphdef, state = nnx.split(module)
    specs = [spatial_spec(mesh, x.shape, factor) for x, _, factor in inputs]

    def on_device(state: nnx.State, *shards: Array) -> Array:
        padded = (
            with_halo(x, halo, spec)
            for x, (_, halo, _), spec in zip(shards, inputs, specs, strict=True)
        )
        return function(nnx.merge(graphdef, state), *padded)

    run = jax.shard_map(
        on_device, in_specs=(PartitionSpec(), *specs), out_specs=specs[0], check_vma=False
    )
    return run(state, *(x for x, _, _ in inputs))
