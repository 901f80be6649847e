import json

import numpy as np
import pytest

from skipsr_jax.tokens.windows import axis_cuts, window_boxes, window_size


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(1, 1, 1), (26, 45, 80), (5, 18, 25), (3, 5, 7), (31, 25, 576)])
def test_windows_partition_the_grid(grid, shifted):
    covered = np.zeros(grid, int)
    for t0, t1, h0, h1, w0, w1 in window_boxes(grid, shifted):
        assert t0 < t1 and h0 < h1 and w0 < w1
        covered[t0:t1, h0:h1, w0:w1] += 1
    np.testing.assert_array_equal(covered, 1)


def test_720p_has_four_by_three_by_three_regular_windows():
    assert window_size((26, 45, 80)) == (7, 15, 27)
    assert len(window_boxes((26, 45, 80), shifted=False)) == 36
    assert len(window_boxes((26, 45, 80), shifted=True)) == 80


def test_shifted_cuts_lie_at_half_windows_rounded_down():
    assert axis_cuts(20, 15, shifted=True).tolist() == [0, 7, 20]
    assert axis_cuts(5, 1, shifted=True).tolist() == axis_cuts(5, 1, shifted=False).tolist()
    assert axis_cuts(5, 5, shifted=True).tolist() == [0, 5]


def test_rounding_is_half_to_even():
    # 25 * sqrt(3600 / (25 * 576)) = 12.5 rounds to 12, so four rows a window, not five.
    assert window_size((1, 25, 576))[1] == 4


def test_empty_grid_is_refused():
    with pytest.raises(ValueError, match="at least one token"):
        window_size((0, 3, 3))


def test_golden_partitions(golden):
    windows = json.loads((golden / "C_windows/windows.json").read_text())
    for case in windows["grids"]:
        grid = tuple(case["grid"])
        for name, shifted in (("regular", False), ("shifted", True)):
            assert window_boxes(grid, shifted).tolist() == case[name], (grid, name)
