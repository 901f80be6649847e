"""Layers on blocks: equal to the dense ones where everything is active, local where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.kernels.norm_silu_concat import scale_shift_silu
from skipsr_jax.kernels.norm_silu_concat.blocks.xla import add_halo
from skipsr_jax.models.layers.causal_conv import CausalConv3d
from skipsr_jax.models.vae.blocks import Downsample, Resnet
from skipsr_jax.models.vae.group_norm import GroupNorm
from skipsr_jax.models.vae.sparse_layers import (
    activate,
    block_conv,
    block_group_norm,
    block_resnet,
    put_blocks,
    take_blocks,
)
from skipsr_jax.tokens.blocks import plan_blocks

FLOAT32 = {"dtype": jnp.float32, "param_dtype": jnp.float32}
SIZE, ROWS, COLUMNS = 4, 3, 4


def picture(frames, channels, seed=0):
    shape = (1, frames, ROWS * SIZE, COLUMNS * SIZE, channels)
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def activated(blocks):
    return jax.jit(lambda blocks: activate(blocks, (SIZE,)))(blocks)


def cut(x, active, size=SIZE):
    return take_blocks(x, active.blocks, size, 0)


def everything(frames):
    """All blocks of each latent frame."""
    plan = plan_blocks(np.ones((frames, ROWS, COLUMNS), bool), ROWS * COLUMNS)
    return [activated(blocks) for blocks in plan]


def some(seed=1):
    """All blocks, then about half of them, then another half, in more slots than needed."""
    active = np.random.default_rng(seed).random((3, ROWS, COLUMNS)) < 0.5
    return active, [activated(blocks) for blocks in plan_blocks(active, 11)]


def test_cutting_and_putting_back():
    active, (_, blocks, _) = some()
    x, other = picture(2, 3), picture(2, 3, seed=1)
    back = put_blocks(other, cut(x, blocks), blocks.blocks)
    inside = np.repeat(np.repeat(active[1], SIZE, 0), SIZE, 1)[None, None, :, :, None]
    np.testing.assert_array_equal(back, np.where(inside, x, other))


def test_the_halo_is_neighbours_or_zero():
    active, (_, blocks, _) = some()
    x = picture(2, 3)
    got = np.asarray(add_halo(cut(x, blocks), blocks.halos[SIZE]))
    known = np.repeat(np.repeat(active[1], SIZE, 0), SIZE, 1)[None, :, :, None]
    ends = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = np.pad(np.where(known, np.asarray(x)[0], 0), ends)
    for slot, index in enumerate(blocks.blocks.block_index[: active[1].sum()]):
        row, column = (SIZE * i for i in divmod(int(index), COLUMNS))
        want = padded[:, row : row + SIZE + 2, column : column + SIZE + 2]
        np.testing.assert_array_equal(got[slot], want)


def down(in_time):
    return Downsample(3, in_time, rngs=nnx.Rngs(0), **FLOAT32).conv


LAYERS = {
    "3x3x3": lambda: CausalConv3d(3, 5, rngs=nnx.Rngs(0), **FLOAT32),
    "1x3x3": lambda: CausalConv3d(3, 5, (1, 3, 3), rngs=nnx.Rngs(0), **FLOAT32),
    "1x1x1": lambda: CausalConv3d(3, 5, (1, 1, 1), rngs=nnx.Rngs(0), **FLOAT32),
    "half": lambda: down(False),
    "half in time": lambda: down(True),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
def test_a_convolution_on_all_blocks_is_dense(layer):
    conv = layer()
    x = picture(5, 3)
    first, second = everything(2)

    @jax.jit
    def both(first, second):
        whole, _ = conv(x)
        a, cache = block_conv(conv, cut(x[:, :1], first), None, first)
        b, _ = block_conv(conv, cut(x[:, 1:], second), cache, second)
        return whole, jnp.concatenate([a, b], axis=1)

    whole, blocks = both(first, second)
    np.testing.assert_allclose(cut(whole, first, blocks.shape[2]), blocks, atol=1e-5)


def test_a_block_sees_its_neighbours_and_when_it_was_last_active():
    conv = LAYERS["3x3x3"]()
    active, (first, second, third) = some()
    x = picture(3, 3)

    @jax.jit
    def run(x):
        _, cache = block_conv(conv, cut(x[:, :1], first), None, first)
        _, cache = block_conv(conv, cut(x[:, 1:2], second), cache, second)
        y, _ = block_conv(conv, cut(x[:, 2:], third), cache, third)
        return y[: active[2].sum()]

    usual = run(x)
    other = np.asarray(run(x.at[:, 1].add(1.0)))
    changed = np.abs(other - usual).max(axis=(1, 2, 3, 4)) > 1e-6
    were = active[1].flat[np.flatnonzero(active[2])]
    np.testing.assert_array_equal(changed, were)
    hidden = np.repeat(np.repeat(~active[2], SIZE, 0), SIZE, 1)[None, :, :, None]
    np.testing.assert_array_equal(run(x.at[:, 2].add(jnp.where(hidden, 9.0, 0.0))), usual)


def test_group_norm_counts_left_out_blocks_as_when_last_active():
    norm = GroupNorm(4, 2, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jnp.arange(1.0, 5), jnp.arange(4.0)
    active, (first, second, _) = some()
    x = picture(3, 4) + jnp.arange(4)

    @jax.jit
    def run(x):
        a, cache = block_group_norm(norm, cut(x[:, :1], first), None, first)
        b, _ = block_group_norm(norm, cut(x[:, 1:], second), cache, second)
        a = scale_shift_silu(cut(x[:, :1], first), a)
        b = scale_shift_silu(cut(x[:, 1:], second), b)
        return a, b, jax.nn.silu(norm(x[:, :1]))

    a, b, dense = run(x)
    np.testing.assert_allclose(a, cut(dense, first), atol=1e-5)
    inside = np.repeat(np.repeat(active[1], SIZE, 0), SIZE, 1)[None, None, :, :, None]
    mixed = jax.nn.silu(norm(jnp.where(inside, x[:, 1:], x[:, :1])))
    count = active[1].sum()
    np.testing.assert_allclose(b[:count], cut(mixed, second)[:count], atol=1e-5)


def test_a_resnet_on_all_blocks_is_dense():
    resnet = Resnet(4, 6, 2, rngs=nnx.Rngs(0), **FLOAT32)
    x = picture(5, 4)
    first, second = everything(2)

    @jax.jit
    def both(first, second):
        whole, _ = resnet(x)
        a, cache = block_resnet(resnet, cut(x[:, :1], first), None, first)
        b, _ = block_resnet(resnet, cut(x[:, 1:], second), cache, second)
        return whole, jnp.concatenate([a, b], axis=1)

    whole, blocks = both(first, second)
    np.testing.assert_allclose(cut(whole, first), blocks, atol=1e-5)
