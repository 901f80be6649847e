"""Token plans: windows, positions, padding, shapes and refusals."""

import itertools

import numpy as np
import pytest

from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import build_plan, smallest_bucket, stack_plans
from skipsr_jax.tokens.windows import window_boxes


def masks(seed, *grids, kept=0.5):
    rng = np.random.default_rng(seed)
    return [rng.random(grid) < kept for grid in grids]


def window_of(grid, shifted):
    """Window number and origin of each patch, written independently of the plan."""
    number, box = np.zeros(grid, int), np.zeros((*grid, 6), int)
    for i, (t0, t1, h0, h1, w0, w1) in enumerate(window_boxes(grid, shifted)):
        number[t0:t1, h0:h1, w0:w1] = i
        box[t0:t1, h0:h1, w0:w1] = (t0, t1, h0, h1, w0, w1)
    return number, box


@pytest.mark.parametrize("grids", [[(5, 18, 25)], [(3, 5, 7), (1, 20, 36)], [(9, 9, 15)]])
@pytest.mark.parametrize("kept", [1.0, 0.4, 0.02])
def test_every_segment_is_one_window_of_one_sample_and_its_text(grids, kept):
    keep = masks(0, *grids, kept=kept)
    keep[0][0, 0, 0] = True
    lengths = [3 + i for i in range(len(grids))]
    plan = build_plan(keep, lengths)
    bucket, slots = smallest_bucket(keep), max(lengths)
    offsets = np.cumsum([0, *(mask.size for mask in keep)])
    for y in (0, 1):
        layout = {name: array[0, y] for name, array in plan.layout._asdict().items()}
        cu = layout["cu_seqlens"]
        found = []
        for start, end in itertools.pairwise(cu):
            if start == end:
                continue
            rows = layout["gather"][start:end]
            video, text = rows[rows < bucket.tokens], rows[rows >= bucket.tokens]
            sample = plan.sample[0, video[0]]
            np.testing.assert_array_equal(plan.sample[0, video], sample)
            first = bucket.tokens + sample * slots
            np.testing.assert_array_equal(text, first + np.arange(lengths[sample]))
            number, box = window_of(keep[sample].shape, y == 1)
            patch = plan.patch_index[0, video] - offsets[sample]
            assert len(set(number.ravel()[patch])) == 1
            window = number.ravel()[patch[0]]
            assert (keep[sample] & (number == window)).sum() == len(video)
            t0, t1, h0, h1, w0, w1 = box.reshape(-1, 6)[patch[0]]
            position = np.stack(np.unravel_index(patch, keep[sample].shape), -1) - (t0, h0, w0)
            np.testing.assert_array_equal(plan.position[0, y, video], position)
            np.testing.assert_array_equal(
                plan.extent[0, y, video],
                np.broadcast_to((t1 - t0, h1 - h0, w1 - w0), position.shape),
            )
            np.testing.assert_array_equal(
                layout["video_rows"][video], np.arange(start, end)[: len(video)]
            )
            found.extend(plan.patch_index[0, video])
        every = np.concatenate([np.flatnonzero(m) + o for m, o in zip(keep, offsets, strict=False)])
        assert sorted(found) == sorted(every)
        np.testing.assert_allclose(layout["text_weight"].sum(-1), [float(m.any()) for m in keep])


def test_regular_windows_are_stored_contiguously():
    plan = build_plan(masks(1, (5, 18, 25)), [4])
    kept = plan.valid[0].sum()
    rows = plan.layout.video_rows[0, 0, :kept]
    assert (np.diff(rows) > 0).all()


def test_padding_points_past_the_end():
    plan = build_plan(masks(2, (3, 5, 7)), [4], bucket=Bucket(128, 16), text_slots=6)
    kept = int(plan.valid.sum())
    assert (plan.patch_index[0, kept:] == -1).all()
    assert (plan.layout.video_rows[0, :, kept:] == 128 + 16 * 6).all()
    ends = plan.layout.cu_seqlens[0, :, -1]
    for y in (0, 1):
        assert (plan.layout.gather[0, y, ends[y] :] == 128 + 6).all()
        assert (plan.layout.text_rows[0, y, :, 4:] == 128 + 16 * 6).all()


def test_shapes_depend_on_the_bucket_alone():
    bucket = Bucket(512, 32)
    a = build_plan(masks(3, (5, 18, 25), kept=0.2), [4], bucket)
    b = build_plan(masks(4, (1, 20, 36), kept=0.5), [4], bucket)
    assert [x.shape for x in a.layout] == [x.shape for x in b.layout]
    assert stack_plans([a, b]).patch_index.shape == (2, 512)


def test_refusals():
    full = [np.ones((2, 4, 4), bool)]
    with pytest.raises(ValueError, match="do not fit the bucket of 16 tokens"):
        build_plan(full, [4], bucket=Bucket(16, 16))
    with pytest.raises(ValueError, match="windows or more do not fit"):
        build_plan([np.ones((5, 18, 25), bool)], [4], bucket=Bucket(4096, 2))
    with pytest.raises(ValueError, match="at least one kept token"):
        build_plan([np.zeros((2, 4, 4), bool)], [4])
    with pytest.raises(ValueError, match="does not fit 3 text slots"):
        build_plan(full, [4], text_slots=3)
    with pytest.raises(ValueError, match="1 keep masks but 2 text lengths"):
        build_plan(full, [4, 4])
