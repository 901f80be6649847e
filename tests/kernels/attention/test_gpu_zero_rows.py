"""Rows of no segment set to zero, interpreted and lowered; compiled by the suite on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.attention.gpu_zero_rows import zero_rows_of_no_segment


@pytest.mark.parametrize(
    "bounds",
    [[[0, 40, 70], [0, 0, 70]], [[3, 5, 60], [33, 33, 64]], [[0, 0, 0], [70, 70, 70]]],
)
def test_rows_outside_become_zero_and_no_others(bounds):
    x = np.random.default_rng(0).normal(size=(2, 70, 3, 24)).astype(np.float32)
    for pack, (first, *_, end) in enumerate(bounds):
        x[pack, :first] = x[pack, end:] = np.nan
    x, cu = jnp.asarray(x, jnp.bfloat16), jnp.asarray(bounds)
    got = zero_rows_of_no_segment(x, cu, interpret=True)
    np.testing.assert_array_equal(got, jnp.nan_to_num(x))


@pytest.mark.usefixtures("abstract_h200")
@pytest.mark.parametrize(("rows", "heads", "head_dim"), [(95_688, 20, 128), (70, 3, 24)])
def test_lowers_for_an_abstract_h200_in_place(rows, heads, head_dim):
    x = jax.ShapeDtypeStruct((2, rows, heads, head_dim), jnp.bfloat16)
    cu = jax.ShapeDtypeStruct((2, 37), jnp.int32)
    text = (
        jax.jit(zero_rows_of_no_segment).trace(x, cu).lower(lowering_platforms=("cuda",)).as_text()
    )
    assert text.count("stablehlo.custom_call @__gpu$xla.gpu.triton") == 1
    assert "output_operand_alias" in text
