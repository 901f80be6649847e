"""Norm and rotation of queries and keys: every implementation against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.qk_norm_rope import api, qk_norm_rope, rotate, tpu, xla
from skipsr_jax.kernels.qk_norm_rope.problem import QKNormRopeProblem
from skipsr_jax.kernels.target import Target

EPS, HEAD_DIM, HEADS, PACKS, TOKENS, PAIRS = 1e-5, 128, 4, 2, 20, 30


@pytest.fixture(scope="module")
def arrays():
    """Projections, norm weights and angles; the tokens fill no whole block of the kernel."""
    rng = np.random.default_rng(0)
    sizes = ((PACKS, TOKENS, 3 * HEADS * HEAD_DIM), (2, HEAD_DIM), (PACKS, TOKENS, PAIRS))
    return tuple(jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes)


def exact(projected, weights, angles, shards):
    """In float64: (shards, packs, tokens, channels)."""
    projected, weights, angles = (np.asarray(x, np.float64) for x in (projected, weights, angles))
    qkv = projected.reshape(PACKS, TOKENS, 3, HEADS, HEAD_DIM).copy()
    for kind, weight in enumerate(weights):
        x = qkv[:, :, kind]
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * weight
        cos, sin = np.cos(angles)[:, :, None], np.sin(angles)[:, :, None]
        a, b = x[..., : 2 * PAIRS : 2].copy(), x[..., 1 : 2 * PAIRS : 2].copy()
        x[..., : 2 * PAIRS : 2], x[..., 1 : 2 * PAIRS : 2] = a * cos - b * sin, b * cos + a * sin
        qkv[:, :, kind] = x
    by_shard = qkv.reshape(PACKS, TOKENS, 3, shards, HEADS // shards, HEAD_DIM)
    return by_shard.transpose(3, 0, 1, 2, 4, 5).reshape(shards, PACKS, TOKENS, -1)


def interpreted(*arrays):
    return tpu.qk_norm_rope(*arrays, interpret=True)


@pytest.mark.parametrize("run", [xla.qk_norm_rope, interpreted], ids=["xla", "pallas_tpu"])
@pytest.mark.parametrize("shards", [1, 2])
def test_each_shard_has_its_heads_normalised_and_rotated(arrays, run, shards):
    problem = QKNormRopeProblem(HEADS, HEAD_DIM, shards, EPS, jnp.dtype(jnp.float32))
    np.testing.assert_allclose(run(*arrays, problem), exact(*arrays, shards), atol=1e-5)


@pytest.mark.slow
def test_the_gradient_of_the_kernel_is_that_of_the_reference(arrays):
    problem = QKNormRopeProblem(HEADS, HEAD_DIM, 2, EPS, jnp.dtype(jnp.float32))
    slope = np.random.default_rng(1).normal(size=exact(*arrays, 2).shape).astype(np.float32)

    def gradient(run):
        return jax.grad(lambda arrays: jnp.vdot(run(*arrays, problem), slope))(arrays)

    for got, want in zip(gradient(interpreted), gradient(xla.qk_norm_rope), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_the_public_function_reads_the_sizes_off_its_operands(arrays):
    got = qk_norm_rope(*arrays, eps=EPS, dtype=jnp.bfloat16, shards=4)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(np.float32), exact(*arrays, 4), atol=0.05)


def test_what_the_kernel_does_not_run():
    problem = QKNormRopeProblem(4, 48, 1, EPS, jnp.dtype(jnp.float32))
    assert "head_dim must be 128, not 48" in tpu.supported(problem, Target("tpu"))
    assert "needs a TPU" in tpu.supported(problem, Target("cpu"))
    assert list(api.IMPLEMENTATIONS) == ["pallas_tpu", "xla"]


@pytest.mark.parametrize(("channels", "rotated"), [(128, 63), (128, 30), (6, 3)])
def test_both_forms_of_the_rotation_are_that_of_each_pair(channels, rotated):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 5, 3, channels)).astype(np.float32)
    angles = rng.normal(size=(1, 5, rotated)).astype(np.float32)
    want = x.astype(np.float64)
    cos, sin = (f(angles.astype(np.float64))[:, :, None] for f in (np.cos, np.sin))
    a, b = want[..., : 2 * rotated : 2].copy(), want[..., 1 : 2 * rotated : 2].copy()
    want[..., : 2 * rotated : 2], want[..., 1 : 2 * rotated : 2] = (
        a * cos - b * sin,
        b * cos + a * sin,
    )
    x, angles = jnp.asarray(x), jnp.asarray(angles)
    np.testing.assert_allclose(rotate(x, angles), want, atol=1e-6)
    padded = jnp.pad(angles, ((0, 0), (0, 0), (0, channels // 2 - rotated)))
    pairs, rolls = xla._rotated_pairs(x, padded), xla._rotated_channels(x, padded)
    np.testing.assert_allclose(rolls, want, atol=1e-6)
    np.testing.assert_array_equal(pairs, rolls)


def test_gradients_of_both_forms_agree():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 4, 2, 8)), jnp.float32)
    angles, weights = rng.normal(size=(1, 4, 4)), rng.normal(size=x.shape)
    gradients = [
        jax.grad(lambda x, form=form: (weights * form(x, jnp.asarray(angles))).sum())(x)
        for form in (xla._rotated_pairs, xla._rotated_channels)
    ]
    np.testing.assert_allclose(*gradients, atol=1e-6)
