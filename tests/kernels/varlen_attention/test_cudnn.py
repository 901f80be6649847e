"""What can be known of the cuDNN version without a GPU: its limits, its splits, its lowering."""

import jax
import jax.numpy as jnp
import pytest

from skipsr_jax.kernels.varlen_attention import choose, cudnn
from skipsr_jax.kernels.varlen_attention.problem import Problem, Target

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
    assert name == ("pallas_tpu" if target.platform == "tpu" else "xla")
    assert reason in refused["cudnn"]


def test_hopper_takes_it_first():
    assert choose(REAL, HOPPER) == ("cudnn", {})
    assert choose(REAL, Target("gpu", (10, 0)))[0] == "cudnn"


def test_a_call_without_gradients_is_not_split():
    assert cudnn.split_sizes(1, 95_688, 20, 128, 36, backward=False) == (1, 20)


@pytest.mark.parametrize("packs", [1, 3])
@pytest.mark.parametrize(
    ("rows", "segments"), [(95_688, 36), (62_080, 36), (4_001, 1), (209_040, 128)]
)
def test_differentiated_calls_stay_under_the_32_bit_limit(packs, rows, segments):
    some_packs, some_heads = cudnn.split_sizes(packs, rows, 20, 128, segments, backward=True)
    assert some_packs * max(segments, 2) * (rows + rows % 2) * some_heads * 128 < 2**32
    more = (some_packs + 1, some_heads) if some_heads == 20 else (1, some_heads + 1)
    if some_packs < packs or some_heads < 20:
        assert more[0] * segments * rows * more[1] * 128 >= 2**32


@pytest.fixture
def _pretend_hopper(monkeypatch):
    """Lowering asks the machine, not the target, what it can do."""
    if cudnn._fused is None:
        pytest.skip("this jax has no cuDNN attention")
    monkeypatch.setattr(cudnn._fused, "check_cudnn_version", lambda: 91_900)
    monkeypatch.setattr(cudnn._fused, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(cudnn._fused, "is_cuda_compute_capability_equal", lambda _: False)


def lowered(rows, heads, segments):
    shape = jax.ShapeDtypeStruct((2, rows, heads, 48), jnp.bfloat16)
    cu = jax.ShapeDtypeStruct((2, segments + 1), jnp.int32)

    def loss(q, k, v, cu):
        return cudnn.varlen_attention(q, k, v, cu, scale=0.1).astype(jnp.float32).sum()

    def text(function):
        program = jax.jit(function).trace(shape, shape, shape, cu)
        return program.lower(lowering_platforms=("cuda",)).as_text()

    return text(loss), text(jax.grad(loss, (0, 1, 2)))


@pytest.mark.usefixtures("_pretend_hopper")
@pytest.mark.parametrize(("rows", "segments"), [(64, 5), (63, 1)])
def test_it_lowers_for_cuda(rows, segments):
    forward, gradient = lowered(rows, 3, segments)
    assert forward.count("@__cudnn$fmhaSoftmax(") == 1
    assert gradient.count("@__cudnn$fmhaSoftmaxBackward(") == 1
    assert f"max_seg_per_batch\\22: {max(segments, 2)}" in forward
    assert "tensor<2x64x3x48xbf16>" in forward  # an even number of rows


@pytest.mark.usefixtures("_pretend_hopper")
@pytest.mark.parametrize(("limit_in_calls", "calls"), [(2, 2), (6, 6)])
def test_only_the_differentiated_call_is_split(monkeypatch, limit_in_calls, calls):
    """Two packs of three heads: first by packs, then by heads."""
    monkeypatch.setattr(cudnn, "BACKWARD_ELEMENTS", 2 * 64 * 3 * 48 * 5 // limit_in_calls + 1)
    forward, gradient = lowered(64, 3, 5)
    assert forward.count("@__cudnn$fmhaSoftmax(") == 1
    assert gradient.count("@__cudnn$fmhaSoftmaxBackward(") == calls
