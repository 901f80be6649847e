"""Pallas is imported when something of it is asked for (``cli/test_commands``: not before)."""

import jax.experimental.pallas.triton
import pytest

from skipsr_jax.kernels.pallas import pl, triton


def test_what_is_asked_for_is_that_of_the_module():
    assert pl.cdiv(5, 2) == 3
    assert triton.CompilerParams is jax.experimental.pallas.triton.CompilerParams
    with pytest.raises(AttributeError, match="of_no_module"):
        _ = pl.of_no_module
