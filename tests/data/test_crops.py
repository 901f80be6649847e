import numpy as np
import pytest

from skipsr_jax.data.crops import ClipShape, frame_offsets


@pytest.mark.parametrize("height, frames", [(15, 5), (16, 4)])
def test_shapes_are_checked(height, frames):
    with pytest.raises(ValueError, match=r"multiples of 16|4k"):
        ClipShape(1, frames, height, 16)


def test_frame_steps_stay_within_the_clip_and_change_at_most_once():
    rng = np.random.default_rng(0)
    drawn = [frame_offsets(9, 25, 4, rng) for _ in range(200)]
    steps = [np.diff(offsets) for offsets in drawn]
    assert all(offsets[0] == 0 and offsets[-1] < 25 for offsets in drawn)
    assert {int(s.max()) for s in steps} == {1, 2, 3}  # 8 steps of 4 need 33 frames
    assert all(np.count_nonzero(np.diff(s)) <= 1 for s in steps)
    assert 0 < sum(s.min() == 0 for s in steps) < 60
    assert 20 < sum(s.min() != s.max() for s in steps) < 80


def test_without_a_choice_of_steps_nothing_is_drawn():
    rng = np.random.default_rng(0)
    for frames, longest, largest in ((9, 25, 1), (17, 25, 4), (1, 25, 1)):
        assert frame_offsets(frames, longest, largest, rng).tolist() == list(range(frames))
    assert rng.random() == np.random.default_rng(0).random()
