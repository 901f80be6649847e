"""What is particular to the XLA version: chunks, sharding, and the size of what it allocates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from skipsr_jax.kernels.attention import xla


def inputs(packs=2, rows=96, heads=4, head_dim=8):
    rng = np.random.default_rng(1)
    q, k, v = (
        jnp.asarray(rng.normal(size=(packs, rows, heads, head_dim)), jnp.float32) for _ in range(3)
    )
    cu = jnp.asarray([[0, 0, 7, 8, 60, 90, 90], [0, 33, 33, 40, 41, 80, 96]], jnp.int32)
    return q, k, v, cu[:packs]


def value_and_grads(q, k, v, cu):
    def loss(*qkv):
        return jnp.sin(3 * xla.varlen_attention(*qkv, cu, scale=0.4, block_rows=8)).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)


@pytest.mark.parametrize("blocks_at_once", [1, 5, 12])
def test_chunks_do_not_change_the_numbers(monkeypatch, blocks_at_once):
    q, k, v, cu = inputs()
    whole = jax.tree.leaves(value_and_grads(q, k, v, cu))
    score_bytes = q.shape[0] * q.shape[2] * 8 * 8 * 4
    monkeypatch.setattr(xla, "SCORE_BYTES", score_bytes * blocks_at_once)
    chunked = jax.tree.leaves(value_and_grads(q, k, v, cu))
    for a, b in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_heads_and_packs_may_be_sharded():
    if jax.device_count() < 4:
        pytest.skip("needs four devices")
    mesh = jax.make_mesh((2, 2), ("data", "seq"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = P("data", None, "seq")

    def attend(q, k, v, cu):
        return xla.varlen_attention(q, k, v, cu, scale=0.4, block_rows=8)

    sharded = jax.shard_map(
        attend, mesh=mesh, in_specs=(rows, rows, rows, P("data")), out_specs=rows
    )
    q, k, v, cu = inputs()

    def both(run):
        step = jax.value_and_grad(lambda *x: jnp.sin(3 * run(*x, cu)).sum(), (0, 1, 2))
        return jax.tree.leaves(jax.jit(step)(q, k, v))

    for a, b in zip(both(attend), both(sharded), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-5)


def test_nothing_is_as_large_as_rows_squared():
    rows, heads, head_dim = 4096, 2, 8
    shape = jax.ShapeDtypeStruct((1, rows, heads, head_dim), jnp.float32)
    cu = jax.ShapeDtypeStruct((1, 9), jnp.int32)

    def loss(q, k, v, cu):
        return xla.varlen_attention(q, k, v, cu, scale=0.4).sum()

    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape, cu)
    assert lowered.compile().memory_analysis().temp_size_in_bytes < heads * rows**2 * 4 / 2
