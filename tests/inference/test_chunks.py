"""Chunks in, one stream out: every frame once, in order, cross-faded."""

import numpy as np
import pytest

from skipsr_jax.inference import chunks


def blend(old, new, weight):
    return old + weight * (new - old)


def stream(count):
    return (np.full((1, 1, 3), i, np.float32) for i in range(count))


def run(count, length, overlap, offset=0.0):
    """Every chunk passes through unchanged, but for ``offset`` times its number."""

    def processed():
        for number, (frames, last) in enumerate(chunks.overlapping(stream(count), length, overlap)):
            keep = np.zeros((1, 1), bool)
            keep[:] = number % 2
            yield ((frame + offset * number, keep) for frame in frames), last

    return list(chunks.cross_fade(processed(), overlap, blend))


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 9, 10, 23])
@pytest.mark.parametrize(("length", "overlap"), [(5, 0), (5, 1), (5, 2), (9, 4)])
def test_every_frame_once_and_exact(count, length, overlap):
    frames = [float(frame[0, 0, 0]) for frame, _ in run(count, length, overlap)]
    assert frames == list(range(count))


def test_the_fade_is_linear():
    frames = [float(frame[0, 0, 0]) for frame, _ in run(8, 5, 2, offset=30.0)]
    np.testing.assert_allclose(frames, [0, 1, 2, 3 + 10, 4 + 20, 5 + 30, 6 + 30, 7 + 30])


def test_a_patch_kept_in_either_chunk_counts():
    kept = [bool(keep[0, 0]) for _, keep in run(8, 5, 2)]
    assert kept == [False, False, False, True, True, True, True, True]


def test_chunks_are_bounded_and_overlap():
    got = [(frames[:, 0, 0, 0].tolist(), last) for frames, last in
           chunks.overlapping(stream(8), 5, 2)]  # fmt: skip
    assert got == [([0, 1, 2, 3, 4], False), ([3, 4, 5, 6, 7], True)]


def test_no_frames_no_chunks():
    assert list(chunks.overlapping(stream(0), 5, 2)) == []


def test_frames_leave_before_the_next_chunk_is_made():
    """At most one chunk is under way: memory does not grow with the length."""
    made = []

    def processed():
        for frames, last in chunks.overlapping(stream(100), 5, 1):
            made.append(len(frames))
            yield iter([(frame, np.ones((1, 1), bool)) for frame in frames]), last

    out = chunks.cross_fade(processed(), 1, blend)
    for _ in range(4):
        next(out)
    assert len(made) == 1
