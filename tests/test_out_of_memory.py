"""A memory that runs out is one line, whatever ran out; other errors stay what they are."""

import jax
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.out_of_memory import memory_errors


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes"),
    ],
)
def test_one_line_with_what_helps(error):
    exhausted = pytest.raises(UserError, match=r"clip\.mp4: the memory of .*exhausted")
    with exhausted as raised, memory_errors("clip.mp4", "take a smaller one"):
        raise error
    said = str(raised.value)
    assert "\n" not in said and "take a smaller one" in said and "llocat" in said


def test_other_errors_pass():
    with (
        pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"),
        memory_errors("clip.mp4", "take a smaller one"),
    ):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")
