import pytest

from skipsr_jax.data.crops import ClipShape


@pytest.mark.parametrize("height, frames", [(15, 5), (16, 4)])
def test_shapes_are_checked(height, frames):
    with pytest.raises(ValueError, match=r"multiples of 16|4k"):
        ClipShape(1, frames, height, 16)
