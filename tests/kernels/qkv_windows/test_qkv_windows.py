"""Norm, rotation and gather in one pass, and their gradient, against the steps one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels import qkv_windows
from skipsr_jax.kernels.qk_norm_rope import xla
from skipsr_jax.kernels.qk_norm_rope.problem import QKNormRopeProblem
from skipsr_jax.kernels.qkv_windows import QKVWindowsProblem
from skipsr_jax.kernels.target import Target

EPS, HEADS, HEAD_DIM, PACKS, TOKENS, TEXTS, ROWS, PAIRS = 1e-5, 2, 16, 2, 37, 3, 45, 5
HOPPER = Target("gpu", (9, 0))


def problem(dtype=jnp.float32, head_dim=HEAD_DIM, numbers=1):
    return QKVWindowsProblem(HEADS, head_dim, EPS, np.dtype(dtype), numbers)


@pytest.fixture(scope="module")
def arrays():
    """Projection, text, weights, angles; rows that are text, video or padding, and their inverse.

    Neither tokens nor rows fill whole blocks, and one token of each pack is padding.
    """
    rng = np.random.default_rng(0)
    width = 3 * HEADS * HEAD_DIM
    sizes = ((PACKS, TOKENS, width), (PACKS, TEXTS, width), (2, HEAD_DIM), (PACKS, TOKENS, PAIRS))
    floats = [jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes]
    gather = np.full((PACKS, ROWS), TOKENS + TEXTS, np.int32)
    video_rows = np.full((PACKS, TOKENS), ROWS, np.int32)
    for pack in range(PACKS):
        places = rng.permutation(ROWS)
        video_rows[pack, :-1] = places[: TOKENS - 1]
        gather[pack, places[: TOKENS - 1]] = np.arange(TOKENS - 1)
        gather[pack, places[TOKENS - 1 : TOKENS + 3]] = TOKENS + np.array([0, 1, 2, 1])
    return *floats, jnp.asarray(gather), jnp.asarray(video_rows)


def step_by_step(projected, text, weights, angles, gather):
    steps = QKNormRopeProblem(HEADS, HEAD_DIM, 1, EPS, np.dtype(jnp.float32))
    qkv = xla.qk_norm_rope(projected, weights, angles, steps)[0]
    both = jnp.concatenate([qkv, text, jnp.zeros_like(text[:, :1])], axis=1)
    rows = jnp.take_along_axis(both, gather[..., None], axis=1)
    return jnp.moveaxis(rows.reshape(PACKS, ROWS, 3, HEADS, HEAD_DIM), 2, 0)


def test_rows_are_normalised_rotated_and_gathered(arrays):
    projected, text, weights, angles, gather, _ = arrays
    rotation = jnp.cos(angles), jnp.sin(angles)
    found = qkv_windows.to_windows(
        projected, text, weights, rotation, gather, problem(), interpret=True
    )
    np.testing.assert_allclose(jnp.stack(found), step_by_step(*arrays[:5]), atol=1e-5)


def test_gradients_are_those_of_the_steps(arrays):
    projected, text, weights, angles, gather, video_rows = arrays
    slope = np.random.default_rng(1).normal(size=(3, PACKS, ROWS, HEADS, HEAD_DIM))
    slope = jnp.asarray(slope, jnp.float32)

    def loss(projected, weights):
        return jnp.vdot(step_by_step(projected, text, weights, angles, gather), slope)

    expected = jax.grad(loss, (0, 1))(projected, weights)
    # What a padding token holds does not matter, and its gradient is zero.
    projected = projected.at[:, -1].set(jnp.nan)
    rotation = jnp.cos(angles), jnp.sin(angles)
    found = qkv_windows.from_windows(
        projected, weights, rotation, video_rows, list(slope), problem(), interpret=True
    )
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


def test_where_the_kernels_run():
    assert qkv_windows.supported(problem(jnp.bfloat16), HOPPER) is None
    for refused, target, reason in (
        (problem(jnp.float32), HOPPER, "not float32"),
        (problem(jnp.bfloat16), Target("cpu"), "this is cpu"),
        (problem(jnp.bfloat16), Target("gpu", (7, 5)), "7.5"),
        (problem(jnp.bfloat16, head_dim=96), HOPPER, "power of two"),
        (problem(jnp.bfloat16, numbers=2**31), HOPPER, "numbers"),
    ):
        assert reason in qkv_windows.supported(refused, target)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
def test_compiled_on_a_gpu(arrays):
    projected, text, weights, angles, gather, video_rows = arrays
    half = jnp.bfloat16
    projected, text = projected.astype(half), text.astype(half)
    rotation = jnp.cos(angles), jnp.sin(angles)
    rows = qkv_windows.to_windows(projected, text, weights, rotation, gather, problem(half))
    wide = projected.astype(jnp.float32), text.astype(jnp.float32), weights, angles, gather
    wanted = step_by_step(*wide)
    np.testing.assert_allclose(jnp.stack(rows).astype(jnp.float32), wanted, rtol=1e-2, atol=1e-2)
    gradients = [jnp.ones_like(array) for array in rows]
    found = qkv_windows.from_windows(
        projected, weights, rotation, video_rows, gradients, problem(half)
    )

    def total(projected, weights):
        return step_by_step(projected, wide[1], weights, angles, gather).sum()

    for got, want in zip(found, jax.grad(total, (0, 1))(wide[0], weights), strict=True):
        np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=2e-2, atol=2e-2)
