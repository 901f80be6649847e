"""One suite for every implementation, against dense masked attention in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.varlen_attention import IMPLEMENTATIONS, choose, varlen_attention, xla
from skipsr_jax.kernels.varlen_attention import api as api_module

# Name -> (rows, heads, head_dim, segment lengths of each pack); the rest of the rows is padding.
SHAPES = {
    "uneven": (70, 3, 16, [[17, 1, 30, 9], [3, 40, 3, 24]]),
    "empty_segments": (40, 2, 8, [[0, 11, 0, 0, 20, 0], [0, 0, 0, 5, 1, 0]]),
    "all_padding": (24, 2, 8, [[0, 0, 0], [10, 4, 2]]),
    "one_segment": (33, 5, 24, [[33]]),
    "one_row": (1, 1, 8, [[1]]),
    "longer_than_a_block": (300, 1, 8, [[5, 270, 20]]),
    "single_rows": (19, 3, 8, [[1] * 19]),
}


def blocked_xla(q, k, v, cu_seqlens, *, scale):
    """The XLA version with blocks so small that segments straddle several of them."""
    return xla.varlen_attention(q, k, v, cu_seqlens, scale=scale, block_rows=8)


def named(name):
    def run(q, k, v, cu_seqlens, *, scale):
        return varlen_attention(q, k, v, cu_seqlens, scale=scale, implementation=name)

    return run


RUNS = {"xla_blocks_of_8": blocked_xla} | {name: named(name) for name in IMPLEMENTATIONS}
NEEDS_HOPPER = pytest.mark.skipif(
    (api_module.current_target().compute_capability or (0, 0)) < (9, 0), reason="needs a Hopper GPU"
)
MARKS = {"cudnn": (pytest.mark.gpu, NEEDS_HOPPER)}
DTYPES = {"cudnn": [jnp.bfloat16, jnp.float16]}
CASES = [
    pytest.param(run, dtype, id=f"{name}-{jnp.dtype(dtype)}", marks=MARKS.get(name, ()))
    for name, run in RUNS.items()
    for dtype in DTYPES.get(name, [jnp.float32, jnp.bfloat16])
]
# Of values of size one; gradients sum over up to 300 rows.
TOLERANCE = {
    jnp.dtype(jnp.float32): 2e-5,
    jnp.dtype(jnp.bfloat16): 5e-2,
    jnp.dtype(jnp.float16): 1e-2,
}


def make(shape, dtype, seed=0):
    rows, heads, head_dim, lengths = SHAPES[shape]
    cu = np.array([np.cumsum([0, *pack]) for pack in lengths], np.int32)
    rng = np.random.default_rng(seed)
    size = (len(lengths), rows, heads, head_dim)
    q, k, v, weight = (jnp.asarray(rng.normal(size=size), dtype) for _ in range(4))
    return q, k, v, weight, jnp.asarray(cu)


def inside_mask(cu, rows):
    return np.arange(rows)[None] < np.asarray(cu)[:, -1:]


def dense(q, k, v, cu, *, scale):
    """Every pair of rows scored, then masked: float64 under enable_x64."""
    rows = q.shape[1]
    label = np.full((q.shape[0], rows), -1)
    for pack, bounds in enumerate(np.asarray(cu)):
        for i, (start, end) in enumerate(itertools.pairwise(bounds)):
            label[pack, start:end] = i
    same = (label[:, :, None] == label[:, None, :]) & (label >= 0)[:, :, None]
    scores = jnp.einsum("bqap,bkap->baqk", q, k) * scale
    scores = jnp.where(same[:, None], scores, -jnp.inf)
    peak = jnp.where(same.any(-1)[:, None, :, None], scores.max(-1, keepdims=True), 0.0)
    weights = jnp.exp(scores - peak)
    total = weights.sum(-1, keepdims=True)
    return jnp.einsum("baqk,bkap->bqap", weights / jnp.where(total > 0, total, 1.0), v)


def output_and_gradients(run, cu, scale):
    """(q, k, v, weight) -> output, and gradients of its sum weighted by ``weight``."""

    @jax.jit
    def both(q, k, v, weight):
        out, pull = jax.vjp(lambda *x: run(*x, cu, scale=scale), q, k, v)
        return out, *pull(weight)

    return both


def loss(run, cu, weight, scale):
    return lambda q, k, v: (run(q, k, v, cu, scale=scale).astype(weight.dtype) * weight).sum()


@pytest.mark.parametrize(("run", "dtype"), CASES)
class TestEveryImplementation:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_output_and_gradients_equal_dense_attention(self, run, dtype, shape):
        q, k, v, weight, cu = make(shape, dtype)
        scale = 1.7 * q.shape[-1] ** -0.5
        out, *grads = output_and_gradients(run, cu, scale)(q, k, v, weight)
        assert out.dtype == dtype
        with jax.enable_x64(True):
            exact = [jnp.asarray(np.asarray(x, np.float64)) for x in (q, k, v, weight)]
            want, *want_grads = output_and_gradients(dense, cu, scale)(*exact)
        assert want.dtype == np.float64
        for got, expected in zip((out, *grads), (want, *want_grads), strict=True):
            expected = np.asarray(expected)
            limit = TOLERANCE[jnp.dtype(dtype)] * max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=0, atol=limit)

    @pytest.mark.parametrize("shape", ["uneven", "empty_segments", "all_padding"])
    def test_nan_in_padding_changes_nothing(self, run, dtype, shape):
        q, k, v, weight, cu = make(shape, dtype)
        outside = jnp.asarray(~inside_mask(cu, q.shape[1]))
        poisoned = [jnp.where(outside[:, :, None, None], jnp.nan, x) for x in (q, k, v)]

        both = output_and_gradients(run, cu, 0.3)
        clean = both(q, k, v, weight)
        bad_weight = jnp.where(outside[:, :, None, None], jnp.nan, weight)
        dirty = both(*poisoned, bad_weight)
        for a, b in zip(clean, dirty, strict=True):
            a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
            np.testing.assert_array_equal(a, b)
            assert (a[np.asarray(outside)] == 0).all()

    def test_repeats_bit_for_bit(self, run, dtype):
        q, k, v, weight, cu = make("uneven", dtype)
        step = jax.jit(jax.value_and_grad(loss(run, cu, weight, 0.3), (0, 1, 2)))
        first = jax.tree.leaves(step(q, k, v))
        for _ in range(3):
            for a, b in zip(first, jax.tree.leaves(step(q, k, v)), strict=True):
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b))

    def test_one_program_serves_other_bounds(self, run, dtype):
        q, k, v, weight, cu = make("uneven", dtype)
        traces = []

        @jax.jit
        def step(q, k, v, cu):
            traces.append(None)
            return jax.value_and_grad(loss(run, cu, weight, 0.3), (0, 1, 2))(q, k, v)

        other = jnp.asarray([[0, 0, 50, 51, 70], [0, 1, 1, 1, 1]], jnp.int32)
        assert other.shape == cu.shape
        here, there = step(q, k, v, cu)[0], step(q, k, v, other)[0]
        assert len(traces) == 1
        assert here != there
        alone = loss(run, other, weight, 0.3)(q, k, v)
        np.testing.assert_allclose(
            np.asarray(there, np.float32), np.asarray(alone, np.float32), rtol=1e-2, atol=0.5
        )

    def test_segments_do_not_see_each_other(self, run, dtype):
        q, k, v, _, cu = make("uneven", dtype)
        start, end = np.asarray(cu)[0, 2:4]
        changed = [x.at[0, start:end].set(3.0) for x in (q, k, v)]
        step = jax.jit(lambda *x: run(*x, cu, scale=0.3))
        a, b = np.array(step(q, k, v), np.float32), np.array(step(*changed), np.float32)
        assert (a[0, start:end] != b[0, start:end]).any()
        a[0, start:end] = b[0, start:end] = 0
        np.testing.assert_array_equal(a, b)


class TestChoice:
    def test_none_runs_everywhere(self):
        q, k, v, _, cu = make("uneven", jnp.float32)
        out = varlen_attention(q, k, v, cu, scale=0.3)
        want = blocked_xla(q, k, v, cu, scale=0.3)
        np.testing.assert_allclose(out, want, atol=1e-5)

    def test_unknown_name_lists_the_known_ones(self):
        q, k, v, _, cu = make("one_row", jnp.float32)
        with pytest.raises(ValueError, match=r"unknown attention implementation 'fast'.*xla"):
            varlen_attention(q, k, v, cu, scale=1.0, implementation="fast")

    @pytest.mark.skipif(jax.default_backend() == "gpu", reason="cuDNN may run here")
    def test_named_implementation_that_cannot_run_says_why(self):
        q, k, v, _, cu = make("one_row", jnp.bfloat16)
        with pytest.raises(ValueError, match=r"cudnn.*cannot run here.*NVIDIA GPU"):
            varlen_attention(q, k, v, cu, scale=1.0, implementation="cudnn")

    def test_the_pick_is_logged_once_with_reasons(self, caplog):
        q, k, v, _, cu = make("one_row", jnp.float32)
        api_module._log_choice.cache_clear()
        with caplog.at_level("INFO", logger=api_module.__name__):
            for _ in range(3):
                varlen_attention(q, k, v, cu, scale=1.0)
        assert len(caplog.records) == 1
        name, refused = choose(api_module.problem_of(q, cu))
        text = caplog.records[0].getMessage()
        assert name in text
        assert all(reason in text for reason in refused.values())

    def test_mismatched_inputs_are_refused(self):
        q, k, v, _, cu = make("uneven", jnp.float32)
        with pytest.raises(ValueError, match="one dtype"):
            varlen_attention(q, k.astype(jnp.bfloat16), v, cu, scale=1.0)
        with pytest.raises(ValueError, match="at least one segment"):
            varlen_attention(q, k, v, cu[:, :1], scale=1.0)
