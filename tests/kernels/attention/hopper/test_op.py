"""What can be known of the Hopper kernels without a GPU: their limits, and that they lower."""

import jax
import jax.numpy as jnp
import pytest

from skipsr_jax.kernels.attention import Problem
from skipsr_jax.kernels.attention.hopper import op as pallas_gpu
from skipsr_jax.kernels.target import Target

HOPPER = Target("gpu", (9, 0))
REAL = Problem(1, 95_688, 20, 128, 36, jnp.dtype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({}, Target("cpu"), "NVIDIA GPU"),
        ({}, Target("gpu", (8, 0)), "8.0"),
        ({}, Target("gpu", (10, 0)), "10.0"),
        ({"dtype": jnp.dtype(jnp.float32)}, HOPPER, "float32"),
        ({"head_dim": 136}, HOPPER, "136"),
    ],
)
def test_refusals_name_the_limit(change, target, reason):
    assert pallas_gpu.supported(REAL, HOPPER) is None
    problem = Problem(**(vars(REAL) | change))
    assert reason in pallas_gpu.supported(problem, target)


def test_a_scale_that_would_turn_the_order_of_scores_is_refused():
    x = jnp.zeros((1, 8, 1, 64), jnp.bfloat16)
    with pytest.raises(ValueError, match="must be positive"):
        pallas_gpu.varlen_attention(x, x, x, jnp.asarray([[0, 8]]), scale=-1.0)


@pytest.mark.usefixtures("abstract_h200")
@pytest.mark.parametrize(
    ("rows", "head_dim", "dtype"), [(95_688, 128, "bfloat16"), (70, 24, "float16")]
)
def test_forward_and_backward_lower_for_an_abstract_h200(rows, head_dim, dtype):
    shape = jax.ShapeDtypeStruct((2, rows, 3, head_dim), jnp.dtype(dtype))
    cu = jax.ShapeDtypeStruct((2, 37), jnp.int32)

    def loss(q, k, v, cu):
        out = pallas_gpu.varlen_attention(q, k, v, cu, scale=0.1)
        return out.astype(jnp.float32).sum()

    traced = jax.jit(jax.grad(loss, (0, 1, 2))).trace(shape, shape, shape, cu)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call @mosaic_gpu") == 3
