"""What is kept of a clip that is written in segments, and what is not gone on from."""

import errno

import numpy as np
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.inference.boundaries import Boundary
from skipsr_jax.inference.segments import Segments, discard_segments, folders_of, plan_of
from skipsr_jax.inference.settings import Chunk

MADE_FROM = {"input": "a", "config": "b", "checkpoint": "c", "version": "d"}
KEEP = [np.ones((2, 3), bool)] * 8
COUNTS = {"kept": 3, "patches": 9, "buckets": [[64, 16, 1]], "coded": {"encode": [1, 2]}}


def boundary(chunks, value=0.25, dtype=np.float32):
    tail = [(np.full((4, 6, 3), value + k, dtype), np.eye(2, 3, dtype=bool)) for k in range(2)]
    return Boundary(chunks, tail, {"wasted": 0.1 + 0.2}, COUNTS)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "clip_x4.mp4"


def write(segments, boundary, frames=8):
    segments.path("packets").write_bytes(b"packets")
    segments.finish(frames, KEEP[:frames], boundary)


@pytest.mark.parametrize("dtype", [np.float32, "bfloat16"])
def test_another_process_goes_on_where_the_first_one_was(output, dtype):
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    with Segments(output, MADE_FROM) as first:
        assert first.boundary() == Boundary() and first.notes == []
        write(first, boundary(2))
        write(first, boundary(4, 0.5, dtype))
    with Segments(output, MADE_FROM) as second:
        assert second.frames == [8, 8] and not second.is_whole
        (note,) = second.notes
        assert "finished 2 segments" in note and "at frame 16" in note
        found, wanted = second.boundary(), boundary(4, 0.5, dtype)
        assert (found.chunks, found.choices, found.counts) == (4, wanted.choices, COUNTS)
        for (pixels, keep), (other, mask) in zip(found.tail, wanted.tail, strict=True):
            assert pixels.dtype == other.dtype
            np.testing.assert_array_equal(pixels, other)
            np.testing.assert_array_equal(keep, mask)
        assert not second.path("tail.npz", 0).exists()  # only the last one is needed
        write(second, None, 5)
        assert second.is_whole and len(list(second.keep_masks())) == 21
    assert not output.exists()
    discard_segments(output)
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("part", MADE_FROM)
def test_what_was_made_from_something_else_is_not_gone_on_from(output, part):
    with Segments(output, MADE_FROM) as first:
        write(first, boundary(2))
    with Segments(output, MADE_FROM | {part: "other"}) as second:
        assert second.frames == []
        (note,) = second.notes
        assert f"another {part} made them" in note and "1 segments that are not used" in note
        assert len(folders_of(output)) == 2
    assert folders_of(output.with_name("clip.mp4")) == []


def test_an_unfinished_segment_is_no_segment(output):
    with Segments(output, MADE_FROM) as first:
        write(first, boundary(2))
        first.path("packets").write_bytes(b"half")
    (folder,) = folders_of(output)
    (folder / "state.json").write_text((folder / "state.json").read_text() + " ")
    with Segments(output, MADE_FROM) as second:
        assert second.frames == [8]
    (folder / "state.json").write_text('{"frames": [8')
    with Segments(output, MADE_FROM) as third:
        assert third.frames == []


def test_two_processes_do_not_write_one_output(output):
    with Segments(output, MADE_FROM):
        with pytest.raises(UserError, match="another process"), Segments(output, MADE_FROM):
            pytest.fail("entered")
        discard_segments(output)
        assert len(folders_of(output)) == 1


def test_a_full_disk_keeps_what_is_finished_and_frees_the_rest(output, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="No space left"), Segments(output, MADE_FROM) as first:
        write(first, boundary(2))
        monkeypatch.setattr(np, "savez_compressed", full)
        write(first, boundary(4))
    monkeypatch.undo()
    with Segments(output, MADE_FROM) as second:
        assert second.frames == [8] and not second.path("packets").exists()
        second.path("tail.npz", 0).write_bytes(b"")
        with pytest.raises(UserError, match="to begin anew"):
            second.boundary()


def test_which_clips_are_cut_and_where():
    chunk = Chunk(frames=101, overlap=5)
    assert plan_of(chunk, 0, 10**6) is None
    assert plan_of(chunk, 480, 480) is None
    assert (plan_of(chunk, 480, 500).chunks, plan_of(chunk, 480, 500).frames) == (5, 480)
    assert plan_of(chunk, 480, 485) is None  # the last chunk ends there
    assert plan_of(chunk, 50, 102).frames == 96  # a chunk at least
