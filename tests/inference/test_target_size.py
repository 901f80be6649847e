"""The size that an input is brought to."""

import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.inference.settings import Size
from skipsr_jax.inference.target_size import target_size


@pytest.mark.parametrize(
    ("size", "want"),
    [
        (Size(4.0, 0, 0), (576, 704)),
        (Size(1.5, 0, 0), (216, 264)),
        (Size(4.0, 720, 0), (720, 880)),
        (Size(4.0, 0, 352), (288, 352)),
        (Size(4.0, 100, 300), (100, 300)),
    ],
)
def test_target_size(size, want):
    assert target_size(144, 176, size) == want


def test_a_target_out_of_bounds_is_refused():
    with pytest.raises(UserError, match="20000x8"):
        target_size(2, 5000, Size(4.0, 0, 0))
