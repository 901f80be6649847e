"""Spatial shards: which axes are sharded, and that convolutions on them are those of the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hlo import collectives
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from skipsr_jax.models.layers import causal_conv
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.parallel.spatial import (
    attend_within_frames,
    constrain_spatial,
    spatial_axes,
    spatial_sharding,
    spatial_shards,
)


@pytest.mark.parametrize(
    ("sizes", "rows", "columns", "want"),
    [
        ((1, 1, 4), 90, 160, ((), ("seq",))),  # 720p: 90 rows do not divide by 4
        ((1, 1, 2), 90, 160, (("seq",), ())),
        ((1, 2, 4), 90, 160, ((), ("fsdp", "seq"))),
        ((2, 1, 4), 6, 9, (("data",), ())),
        ((1, 1, 4), 4, 7, ((), ())),  # shards of one row
    ],
)
def test_rows_or_columns_are_sharded_over_most_devices(sizes, rows, columns, want):
    axes = dict(zip(("data", "fsdp", "seq"), sizes, strict=True))
    found = spatial_axes(axes, rows, columns)
    assert tuple(tuple(a for a in side if axes[a] > 1) for side in found) == want


def test_frames_and_latents_have_the_same_shards():
    mesh = make_mesh(2, 1, 4)
    frames = spatial_sharding(mesh, (1, 5, 128, 64, 3), 8).shard_shape((1, 5, 128, 64, 3))
    latents = spatial_sharding(mesh, (1, 2, 16, 8, 16)).shard_shape((1, 2, 16, 8, 16))
    assert (frames[2:4], latents[2:4]) == ((16, 64), (2, 8))
    assert spatial_shards(mesh, 128, 64, 8) == 8 and spatial_shards(mesh, 72, 40, 8) == 1
    several = spatial_sharding(mesh, (2, 2, 16, 8, 16)).shard_shape((2, 2, 16, 8, 16))
    assert several == (1, 2, 4, 8, 16)  # two clips: one for each half of the devices


@pytest.mark.parametrize("form", ["_as_conv2d", "_as_conv3d"])
@pytest.mark.parametrize(("strides", "padding"), [((1, 1, 1), (1, 1)), ((2, 2, 2), (0, 1))])
@pytest.mark.parametrize(("packs", "shape"), [(2, (8, 6)), (1, (5, 16))])
def test_convolutions_on_thin_shards(form, strides, padding, packs, shape):
    """Two rows (or columns) at the lowest resolution, packs sharded too."""
    rng = np.random.default_rng(0)
    step = strides[1]
    x = rng.normal(size=(packs, 5, shape[0] * step, shape[1] * step, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 3, 4)).astype(np.float32)
    run = functools.partial(getattr(causal_conv, form), strides=strides, padding=(padding, padding))
    mesh = make_mesh(1, 2, 4)
    sharding = spatial_sharding(mesh, x.shape, step)
    assert sharding.shard_shape(x.shape)[2:4] != x.shape[2:4]
    with jax.set_mesh(mesh):
        program = (
            jax.jit(lambda x, k: constrain_spatial(run(x, k)))
            .lower(jax.device_put(x, sharding), jax.device_put(kernel, NamedSharding(mesh, P())))
            .compile({"xla_backend_optimization_level": 0})
        )
        got = program(jax.device_put(x, sharding), jax.device_put(kernel, NamedSharding(mesh, P())))
    np.testing.assert_allclose(got, run(x, kernel), atol=1e-4)
    kinds = {c.kind for c in collectives(program)}
    assert kinds == {"collective-permute"}  # halos, nothing gathered


def softmax_within(q, k, v):
    return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v


@pytest.mark.parametrize(("packs", "shape"), [(2, (8, 6)), (1, (5, 16))])
def test_attention_within_frames(packs, shape):
    """Queries stay in their shard and clips on their devices; keys and values are gathered."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, packs, 2, *shape, 4)), jnp.float32)
    want = attend_within_frames(softmax_within, *x)
    mesh = make_mesh(1, 2, 4)
    sharding = spatial_sharding(mesh, want.shape)
    with jax.set_mesh(mesh):
        args = jax.device_put(tuple(x), sharding)
        run = jax.jit(functools.partial(attend_within_frames, softmax_within))
        program = run.lower(*args).compile({"xla_backend_optimization_level": 0})
        got = program(*args)
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert got.sharding.shard_shape(got.shape) == sharding.shard_shape(want.shape)
    assert {c.kind for c in collectives(program)} == {"all-gather"}
    assert {c.elements for c in collectives(program)} == {2 * shape[0] * shape[1] * 4}
