"""One suite for every implementation, against attention of each segment in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels import choice
from skipsr_jax.kernels.attention import (
    IMPLEMENTATIONS,
    Problem,
    choose,
    cudnn,
    merged_attention,
    varlen_attention,
    xla,
)
from skipsr_jax.kernels.attention import triton as pallas_triton
from skipsr_jax.kernels.attention.tpu import op as pallas_tpu
from skipsr_jax.kernels.attention.tpu.stream import Blocks
from skipsr_jax.kernels.target import current_target

# Name -> (rows, heads, head_dim, segment lengths of each pack); the rest of the rows is padding.
SHAPES = {
    "uneven": (70, 3, 16, [[17, 1, 30, 9], [3, 40, 3, 24]]),
    "empty_segments": (40, 2, 8, [[0, 11, 0, 0, 20, 0], [0, 0, 0, 5, 1, 0]]),
    "all_padding": (24, 2, 8, [[0, 0, 0], [10, 4, 2]]),
    "one_segment": (33, 5, 24, [[33]]),
    "one_row": (1, 1, 8, [[1]]),
    "longer_than_a_block": (300, 1, 8, [[5, 270, 20]]),
    "single_rows": (19, 3, 8, [[1] * 19]),
    "real_heads": (700, 2, 128, [[64, 128, 130, 1, 300, 60]]),
    "more_tiles_than_cores": (1500, 24, 64, [[333, 5, 700, 77, 380]]),
}


def blocked_xla(q, k, v, cu_seqlens, *, scale):
    """The XLA version with blocks so small that segments straddle several of them."""
    return xla.varlen_attention(q, k, v, cu_seqlens, scale=scale, block_rows=8)


def interpreted_pallas_tpu(q, k, v, cu_seqlens, *, scale):
    """The TPU kernels without a TPU: blocks in two parts, several of them in every segment."""
    return pallas_tpu.varlen_attention(
        q, k, v, cu_seqlens, scale=scale, blocks=Blocks(16, 8, 8), interpret=True
    )


def interpreted_merged_pallas_tpu(q, k, v, cu_seqlens, *, scale):
    """The TPU kernel on rows with merged heads: 128 channels each, finite rows of no segment."""
    heads, head_dim = q.shape[2:]
    inside = jnp.arange(q.shape[1])[None, :, None, None] < cu_seqlens[:, -1, None, None, None]
    wide = [
        jnp.pad(jnp.where(inside, x, 0), (*[(0, 0)] * 3, (0, 128 - head_dim))) for x in (q, k, v)
    ]
    out = pallas_tpu.merged_attention(
        jnp.concatenate([x.reshape(*x.shape[:2], -1) for x in wide], axis=2), cu_seqlens,
        heads=heads, scale=scale, blocks=Blocks(16, 8, 8), interpret=True,
    )  # fmt: skip
    return out.reshape(*q.shape[:3], 128)[..., :head_dim]


def merged_xla(q, k, v, cu_seqlens, *, scale):
    """``merged_attention`` where no kernel takes merged heads."""
    qkv = jnp.concatenate([x.reshape(*x.shape[:2], -1) for x in (q, k, v)], axis=2)
    out = merged_attention(qkv, cu_seqlens, heads=q.shape[2], scale=scale, implementation="xla")
    return out.reshape(q.shape)


def cudnn_in_short_rows(q, k, v, cu_seqlens, *, scale):
    """cuDNN with segments over the ends of rows, and some that are longer than a row."""
    packs, rows, segments = *q.shape[:2], cu_seqlens.shape[1] - 1
    limit = -(-packs * rows // 3)
    view = cudnn.Rows(3, limit + limit % 2, max(2, -(-packs * segments // 3)))
    return cudnn.varlen_attention(q, k, v, cu_seqlens, scale=scale, view=view)


def named(name):
    def run(q, k, v, cu_seqlens, *, scale):
        return varlen_attention(q, k, v, cu_seqlens, scale=scale, implementation=name)

    return run


def interpreted_pallas_triton(q, k, v, cu_seqlens, *, scale):
    """The Triton kernels without a GPU."""
    return pallas_triton.varlen_attention(q, k, v, cu_seqlens, scale=scale, interpret=True)


RUNS = {
    "xla_blocks_of_8": blocked_xla,
    "pallas_tpu_interpreted": interpreted_pallas_tpu,
    "merged_pallas_tpu_interpreted": interpreted_merged_pallas_tpu,
    "merged_xla": merged_xla,
    "pallas_triton_interpreted": interpreted_pallas_triton,
    "cudnn_in_short_rows": cudnn_in_short_rows,
} | {name: named(name) for name in IMPLEMENTATIONS}
TARGET = current_target()
NEEDS_AMPERE = pytest.mark.skipif(
    (TARGET.compute_capability or (0, 0)) < (8, 0), reason="needs an Ampere GPU"
)
NEEDS_HOPPER = pytest.mark.skipif(
    (TARGET.compute_capability or (0, 0)) < (9, 0), reason="needs a Hopper GPU"
)
NEEDS_HOPPER_ITSELF = pytest.mark.skipif(
    (TARGET.compute_capability or (0, 0))[0] != 9, reason="needs a GPU of the Hopper generation"
)
NEEDS_TPU = pytest.mark.skipif(TARGET.platform != "tpu", reason="needs a TPU")
MARKS = {
    "cudnn": (pytest.mark.gpu, NEEDS_HOPPER),
    "cudnn_in_short_rows": (pytest.mark.gpu, NEEDS_HOPPER),
    "pallas_gpu": (pytest.mark.gpu, NEEDS_HOPPER_ITSELF),
    "pallas_triton": (pytest.mark.gpu, NEEDS_AMPERE),
    "pallas_tpu": (NEEDS_TPU,),
}
DTYPES = {
    "cudnn": [jnp.bfloat16, jnp.float16],
    "cudnn_in_short_rows": [jnp.bfloat16],
    "pallas_gpu": [jnp.bfloat16, jnp.float16],
    "pallas_triton": [jnp.bfloat16, jnp.float16],
    "pallas_triton_interpreted": [jnp.bfloat16],
    "merged_pallas_tpu_interpreted": [jnp.float32],
    "merged_xla": [jnp.float32],
}
GPU_ONLY = ("real_heads", "more_tiles_than_cores")  # shapes that take a CPU too long
# Interpreted kernels take seconds to compile: where one shape shows what the dtype changes.
ONE_SHAPE = ("pallas_tpu_interpreted", jnp.bfloat16)
INTERPRETED_TRITON = ("uneven", "longer_than_a_block")


def shapes_of(name, dtype, shapes):
    """Those of ``shapes`` that this run is tested at."""
    if (name, dtype) == ONE_SHAPE or name in ("merged_pallas_tpu_interpreted", "merged_xla"):
        return shapes[:1]
    if name == "pallas_triton_interpreted":
        return [shape for shape in shapes if shape in INTERPRETED_TRITON]
    on_gpu = pytest.mark.gpu in MARKS.get(name, ())
    return [shape for shape in shapes if on_gpu or shape not in GPU_ONLY]


def cases(*shapes):
    """(run, dtype, shape) of every implementation."""
    found = []
    for name, run in RUNS.items():
        for dtype in DTYPES.get(name, [jnp.float32, jnp.bfloat16]):
            for shape in shapes_of(name, dtype, shapes):
                case = f"{name}-{jnp.dtype(dtype)}-{shape}"
                found.append(pytest.param(run, dtype, shape, id=case, marks=MARKS.get(name, ())))
    return found


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


def scale_of(q):
    return 1.7 * q.shape[3] ** -0.5


def inside_mask(cu, rows):
    return np.arange(rows)[None] < np.asarray(cu)[:, -1:]


def of_segment(q, k, v, d_out, scale):
    """Output and gradients of one segment, (rows, heads, head_dim), softmax derived by hand."""
    q, k, v, d_out = (np.moveaxis(x, 1, 0) for x in (q, k, v, d_out))
    scores = q @ np.swapaxes(k, 1, 2) * scale
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    slopes = d_out @ np.swapaxes(v, 1, 2)
    d_scores = weights * (slopes - (slopes * weights).sum(-1, keepdims=True)) * scale
    d_k, d_v = (np.swapaxes(x, 1, 2) @ y for x, y in ((d_scores, q), (weights, d_out)))
    return tuple(np.moveaxis(x, 0, 1) for x in (weights @ v, d_scores @ k, d_k, d_v))


class Program:
    """(q, k, v, weight, cu) -> output, and gradients of its sum weighted by ``weight``."""

    def __init__(self, run):
        self.traces = 0

        def both(q, k, v, weight, cu):
            self.traces += 1
            out, pull = jax.vjp(lambda *x: run(*x, cu, scale=scale_of(q)), q, k, v)
            return out, *pull(weight)

        self._call = jax.jit(both)

    def __call__(self, *inputs):
        return [np.asarray(x) for x in self._call(*inputs)]


# One for all tests of an implementation: what has compiled once is not compiled again.
program = functools.cache(Program)


def exact(q, k, v, weight, cu):
    """Attention of the same inputs in float64, segment by segment."""
    inputs = [np.asarray(x, np.float64) for x in (q, k, v, weight)]
    want = [np.zeros_like(inputs[0]) for _ in range(4)]
    for pack, bounds in enumerate(np.asarray(cu)):
        for start, end in itertools.pairwise(bounds):
            if end > start:
                rows = np.s_[pack, start:end]
                found = of_segment(*(x[rows] for x in inputs), scale_of(q))
                for whole, part in zip(want, found, strict=True):
                    whole[rows] = part
    return want


def assert_close(got, want, dtype):
    for a, b in zip(got, want, strict=True):
        limit = TOLERANCE[jnp.dtype(dtype)] * max(1.0, np.abs(b).max())
        np.testing.assert_allclose(a.astype(np.float64), b, rtol=0, atol=limit)


class TestEveryImplementation:
    @pytest.mark.parametrize(("run", "dtype", "shape"), cases(*SHAPES))
    def test_output_and_gradients_equal_those_in_float64(self, run, dtype, shape):
        inputs = make(shape, dtype)
        got = program(run)(*inputs)
        assert got[0].dtype == dtype
        assert_close(got, exact(*inputs), dtype)

    @pytest.mark.parametrize(
        ("run", "dtype", "shape"), cases("uneven", "empty_segments", "all_padding")
    )
    def test_nan_in_padding_changes_nothing(self, run, dtype, shape):
        *arrays, cu = make(shape, dtype)
        outside = ~inside_mask(cu, arrays[0].shape[1])
        poisoned = [jnp.where(outside[:, :, None, None], jnp.nan, x) for x in arrays]
        clean, dirty = program(run)(*arrays, cu), program(run)(*poisoned, cu)
        for a, b in zip(clean, dirty, strict=True):
            np.testing.assert_array_equal(a.astype(np.float32), b.astype(np.float32))
            assert (b[outside] == 0).all()

    @pytest.mark.parametrize(("run", "dtype", "shape"), cases("uneven"))
    def test_repeats_bit_for_bit(self, run, dtype, shape):
        inputs = make(shape, dtype)
        first = program(run)(*inputs)
        for _ in range(3):
            for a, b in zip(first, program(run)(*inputs), strict=True):
                np.testing.assert_array_equal(a, b)

    @pytest.mark.parametrize(("run", "dtype", "shape"), cases("uneven"))
    def test_one_program_serves_other_bounds(self, run, dtype, shape):
        *arrays, cu = make(shape, dtype)
        other = jnp.asarray([[0, 0, 50, 51, 70], [0, 1, 1, 1, 1]], jnp.int32)
        assert other.shape == cu.shape
        here = program(run)(*arrays, cu)
        traces = program(run).traces
        there = program(run)(*arrays, other)
        assert program(run).traces == traces
        assert (here[0] != there[0]).any()
        assert_close(there, exact(*arrays, other), dtype)

    @pytest.mark.parametrize(("run", "dtype", "shape"), cases("uneven"))
    def test_segments_do_not_see_each_other(self, run, dtype, shape):
        *arrays, weight, cu = make(shape, dtype)
        start, end = np.asarray(cu)[0, 2:4]
        changed = [x.at[0, start:end].set(3.0) for x in arrays]
        a, b = program(run)(*arrays, weight, cu)[0], program(run)(*changed, weight, cu)[0]
        assert (a[0, start:end] != b[0, start:end]).any()
        a, b = np.delete(a[0], np.s_[start:end], 0), np.delete(b[0], np.s_[start:end], 0)
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
        choice._log_once.cache_clear()
        with caplog.at_level("INFO", logger=choice.__name__):
            for _ in range(3):
                varlen_attention(q, k, v, cu, scale=1.0)
        assert len(caplog.records) == 1
        name, refused = choose(Problem.of(q, cu))
        text = caplog.records[0].getMessage()
        assert name in text
        assert all(reason in text for reason in refused.values())

    def test_mismatched_inputs_are_refused(self):
        q, k, v, _, cu = make("uneven", jnp.float32)
        with pytest.raises(ValueError, match="one dtype"):
            varlen_attention(q, k.astype(jnp.bfloat16), v, cu, scale=1.0)
        with pytest.raises(ValueError, match="at least one segment"):
            varlen_attention(q, k, v, cu[:, :1], scale=1.0)
