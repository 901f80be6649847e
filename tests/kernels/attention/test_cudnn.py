"""What can be known of the cuDNN version without a GPU: its limits, its splits, its lowering."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.attention import Problem, choose, cudnn
from skipsr_jax.kernels.target import Target

HOPPER = Target("gpu", (9, 0))
BFLOAT16 = jnp.dtype(jnp.bfloat16)
REAL = Problem(1, 95_688, 20, 128, 36, BFLOAT16)  # 720p, 101 frames, 3B, regular windows


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({}, Target("cpu"), "NVIDIA GPU"),
        ({}, Target("tpu"), "NVIDIA GPU"),
        ({}, Target("gpu", (8, 0)), "8.0"),
        ({"dtype": jnp.dtype(jnp.float32)}, HOPPER, "float32"),
        ({"head_dim": 20}, HOPPER, "20"),
        ({"head_dim": 136}, HOPPER, "136"),
        ({"rows": 2**20, "segments": 4096}, HOPPER, "32-bit"),
    ],
)
def test_refusals_name_the_limit(change, target, reason):
    problem = Problem(**(vars(REAL) | change))
    assert reason in cudnn.supported(problem, target)
    name, refused = choose(problem, target)
    assert name != "cudnn"
    assert reason in refused["cudnn"]


def test_hopper_takes_it_first():
    assert choose(REAL, HOPPER) == ("cudnn", {})
    assert choose(REAL, Target("gpu", (10, 0)))[0] == "cudnn"


@pytest.mark.parametrize("packs", [1, 3])
@pytest.mark.parametrize(
    ("rows", "segments"),
    [(95_688, 36), (98_240, 80), (59_376, 36), (4_001, 1), (209_040, 144), (70, 4)],
)
def test_calls_stay_under_the_32_bit_limits(packs, rows, segments):
    problem = Problem(packs, rows, 20, 128, segments, BFLOAT16)
    together, view = cudnn.call_for(problem)
    assert view.count * view.limit >= together * rows
    assert view.count * view.slots >= max(2, together * segments)
    assert view.count * view.slots * view.limit * 20 * 128 < 2**32
    assert view.count * view.limit * 20 * 128 < 2**31
    assert view.limit >= min(4096, together * rows)


def test_the_real_shape_is_viewed_without_a_copy_and_within_the_budget():
    together, view = cudnn.call_for(REAL)
    assert together == 1
    assert view.count * view.limit == REAL.rows
    assert view.count * view.slots * view.limit * 20 * 128 <= cudnn.SUM_BUDGET


def test_few_rows_fit_whatever_their_segments():
    assert cudnn.call_for(Problem(2, 70, 3, 16, 4, BFLOAT16)) == (2, cudnn.Rows(1, 140, 8))


@pytest.mark.parametrize("view", [cudnn.Rows(1, 20, 6), cudnn.Rows(3, 8, 2), cudnn.Rows(5, 4, 2)])
def test_segments_keep_their_offset_in_the_flat_buffer(view):
    """Two packs of ten rows, in views that do and do not need padding."""
    call = cudnn._Call(view, 1.0)
    cu = np.array([[0, 4, 4, 9], [1, 2, 10, 10]])
    flat = np.arange(20.0)
    viewed = np.asarray(call.view(jnp.asarray(flat).reshape(2, 10, 1, 1))).reshape(-1)
    lengths, offsets = (np.asarray(x).reshape(-1) for x in call.segments(jnp.asarray(cu), 10, 6))
    got = [
        viewed[start // 6 : start // 6 + length]
        for start, length in zip(offsets[: len(lengths)], lengths, strict=True)
        if length
    ]
    want = [flat[:4], flat[4:9], flat[11:12], flat[12:20]]
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    again = call.packs(call.view(jnp.asarray(flat).reshape(2, 10, 1, 1)), 2, 10)
    np.testing.assert_array_equal(again.reshape(-1), flat)


def lowered(rows, heads, segments):
    shape = jax.ShapeDtypeStruct((2, rows, heads, 48), jnp.bfloat16)
    cu = jax.ShapeDtypeStruct((2, segments + 1), jnp.int32)

    def loss(q, k, v, cu):
        return cudnn.varlen_attention(q, k, v, cu, scale=0.1).astype(jnp.float32).sum()

    def text(function):
        program = jax.jit(function).trace(shape, shape, shape, cu)
        return program.lower(lowering_platforms=("cuda",)).as_text()

    return text(loss), text(jax.grad(loss, (0, 1, 2)))


FORWARD, BACKWARD = "@__cudnn$fmhaSoftmax(", "@__cudnn$fmhaSoftmaxBackward("


@pytest.mark.skipif(cudnn._fused is None, reason="this jax has no cuDNN attention")
@pytest.mark.usefixtures("abstract_h200")
class TestLowering:
    @pytest.mark.parametrize(("rows", "segments"), [(64, 5), (63, 1)])
    def test_one_call_where_any_segment_fits(self, rows, segments):
        forward, gradient = lowered(rows, 3, segments)
        assert forward.count(FORWARD) == 1
        assert gradient.count(BACKWARD) == 1
        assert not any(f"stablehlo.{loop}" in gradient for loop in ("while", "case"))
        assert f"max_seg_per_batch\\22: {2 * max(segments, 1)}" in forward
        assert f"tensor<1x{2 * rows}x3x48xbf16>" in forward

    def test_long_segments_have_their_own_branch(self, monkeypatch):
        monkeypatch.setattr(cudnn, "USUAL_LENGTH", 32)
        forward, gradient = lowered(64, 3, 5)
        assert "stablehlo.case" not in forward
        assert forward.count(FORWARD) == 1
        assert gradient.count("stablehlo.case") == 1
        assert gradient.count(BACKWARD) == 1
        # Zeros are written outside: to the output before, to the gradients beside their call.
        before, rest = gradient.split("stablehlo.case")
        branches, end, _ = rest.partition("}) : (tensor<i32>)")
        assert before.count("triton") == 1
        assert end and branches.count("triton") == 3
