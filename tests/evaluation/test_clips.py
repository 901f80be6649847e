"""Clips are found in every layout, paired by name, and cut alike, and mismatches are told."""

import os

import numpy as np
import pytest
from media_clips import write_clip
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.clips import (
    Pair,
    find_clips,
    is_itself_a_clip,
    open_pair,
    other_name,
    pair_clips,
)


def write_frames(folder, count, height=12, width=16, first=0):
    folder.mkdir(parents=True)
    for index in range(count):
        frame = np.full((height, width, 3), first + index, np.uint8)
        Image.fromarray(frame).save(folder / f"{index:04d}.png")
    return folder


class TestFindClips:
    def test_one_file_and_one_folder_of_frames(self, tmp_path):
        frames = write_frames(tmp_path / "dog", 3)
        assert find_clips(frames) == {"dog": frames}
        assert find_clips(frames / "0001.png") == {"0001": frames / "0001.png"}
        assert list(find_clips(frames, folder="files")) == ["0000", "0001", "0002"]

    def test_folder_of_clips_takes_ground_truth_of_doves_layout(self, tmp_path):
        for part in ("GT", "LQ"):
            for name in ("000", "001"):
                write_frames(tmp_path / part / name, 2)
        assert find_clips(tmp_path, truth=True) == {
            name: tmp_path / "GT" / name for name in ("000", "001")
        }
        assert list(find_clips(tmp_path / "LQ")) == ["000", "001"]

    def test_names_lose_what_infer_adds_where_they_stay_different(self, tmp_path):
        for name in ("a_x4", "b_1280x720", "c_x1.5", "d_extra"):
            Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
        assert list(find_clips(tmp_path)) == ["a", "b", "c", "d_extra"]
        Image.new("RGB", (4, 4)).save(tmp_path / "a_x2.png")
        assert "a_x2" in find_clips(tmp_path)

    def test_files_and_folders_of_frames_beside_each_other(self, tmp_path):
        write_frames(tmp_path / "dog", 2)
        (tmp_path / "notes").mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
        assert list(find_clips(tmp_path)) == ["cat", "dog"]

    def test_masks_beside_results_are_no_clips(self, tmp_path):
        write_frames(tmp_path / "dog_x4", 2)
        write_frames(tmp_path / "dog_x4_mask", 2)
        for name in ("cat_x4", "cat_x4_mask", "gas_mask"):
            Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
        assert list(find_clips(tmp_path)) == ["cat", "gas_mask", "dog"]

    def test_nothing_and_two_of_one_name(self, tmp_path):
        with pytest.raises(UserError, match="no folder of images"):
            find_clips(tmp_path)
        for suffix in ("png", "jpg"):
            Image.new("RGB", (4, 4)).save(tmp_path / f"a.{suffix}")
        with pytest.raises(UserError, match="have one name"):
            find_clips(tmp_path)


class TestPairClips:
    def test_pairs_by_name_and_tells_truths_without_result(self, tmp_path):
        results = {"b": tmp_path / "r/b", "a": tmp_path / "r/a"}
        truths = {name: tmp_path / name for name in "abc"}
        pairs, missing = pair_clips(results, truths)
        assert pairs == [Pair(name, results[name], truths[name]) for name in "ab"]
        assert missing == ["c"]

    def test_one_and_one_that_are_named_themselves_need_no_name(self, tmp_path):
        one, other = {"out": tmp_path / "out"}, {"dog": tmp_path / "dog"}
        pairs, _ = pair_clips(one, other, any_name=True)
        assert pairs[0].name == "dog"
        (line,) = other_name(pairs[0].result, pairs[0].truth)
        assert line.endswith("dog, which has another name")
        assert other_name(tmp_path / "dog_x4.mp4", tmp_path / "dog.mkv") == []
        with pytest.raises(UserError, match="name the clips, not their folders"):
            pair_clips(one, other)

    def test_a_clip_itself_is_no_folder_of_clips(self, tmp_path):
        frames = write_frames(tmp_path / "set/GT", 2)
        one = write_frames(tmp_path / "one/dog", 2)
        for path, truth, itself in (
            (frames, False, True),
            (tmp_path / "set", True, True),  # whose GT is the clip
            (one / "0000.png", False, True),
            (tmp_path / "one", False, False),
        ):
            assert is_itself_a_clip(path, find_clips(path, truth=truth)) == itself

    def test_two_results_of_one_clip_are_the_reason(self, tmp_path):
        results = {f"dog_x{n}": tmp_path / f"dog_x{n}.mp4" for n in (2, 4)}
        with pytest.raises(UserError, match=r"x2\.mp4 and .*x4\.mp4 are both of the clip dog"):
            pair_clips(results, {"dog": tmp_path / "dog.mp4"})

    def test_a_result_without_truth_is_refused(self, tmp_path):
        with pytest.raises(UserError, match=r"name of .*x and of 1 more result: truths are a"):
            pair_clips({"x": tmp_path / "x", "y": tmp_path / "y"}, {"a": tmp_path})


class TestOpenPair:
    def test_mismatch_is_told_and_cut_from_the_top_left(self, tmp_path):
        result = write_frames(tmp_path / "result", 3, 12, 18, first=7)
        truth = write_frames(tmp_path / "truth", 4, 13, 16)
        opened = open_pair(Pair("dog", result, truth))
        assert "18x12, its truth 16x13: both are cut to 16x12" in opened.notes[0]
        assert "3 frames, its truth 4: the first 3" in opened.notes[1]
        frames = list(opened.frames())
        assert len(frames) == opened.num_frames == 3
        assert all(r.shape == t.shape == (12, 16, 3) for r, t in frames)
        assert [r[0, 0, 0] - t[0, 0, 0] for r, t in frames] == [7, 7, 7]

    def test_gaps_in_the_numbers_of_frames_are_told(self, tmp_path):
        folder = write_frames(tmp_path / "gaps", 9)
        assert open_pair(Pair("gaps", folder)).notes == ()
        for index in (2, 4, 5):
            (folder / f"{index:04d}.png").unlink()
        (note,) = open_pair(Pair("gaps", folder)).notes
        assert "its numbers lack 2, 4 to 5" in note

    def test_ten_bits_and_odd_sizes_are_read_as_they_are(self, tmp_path):
        deep = write_clip(tmp_path / "deep.mkv", frames=3, height=47, width=63, codec="ffv1",
                          pixel_format="yuv444p10le")  # fmt: skip
        opened = open_pair(Pair("deep", deep))
        frames = list(opened.frames())
        assert frames[0][0].dtype == np.uint16 and frames[0][1] is None
        assert opened.size == (47, 63) and opened.notes == ()

    def test_what_moves_scores_is_told(self, tmp_path):
        Image.new("RGB", (16, 16), "red").save(tmp_path / "solid.png")
        Image.new("RGBA", (16, 16), (255, 0, 0, 128)).save(tmp_path / "clear.png")
        write_clip(tmp_path / "sdr.mp4", frames=1)
        write_clip(tmp_path / "hdr.mp4", frames=1, primaries=9, transfer=16, matrix=9)
        fields = {"flags": "+ildct", "crf": "4"}
        write_clip(tmp_path / "fields.mp4", frames=2, options=fields)

        def remarks(result, truth):
            opened = open_pair(Pair("a", tmp_path / result, tmp_path / truth))
            assert opened.notes == () or "frames, its truth" in opened.notes[0]
            return [remark.replace(f"{tmp_path}{os.sep}", "") for remark in opened.remarks]

        assert remarks("solid.png", "solid.png") == [
            "solid.png is compared with itself: name another --truth"
        ]
        assert remarks("clear.png", "solid.png") == [
            "clear.png: transparent pixels are laid on black"
        ]
        assert remarks("sdr.mp4", "hdr.mp4") == [
            "hdr.mp4 is HDR and sdr.mp4 is not: codes are compared as they are"
        ]
        assert remarks("fields.mp4", "sdr.mp4") == [
            "fields.mp4 is interlaced: each pair of fields is made one frame (bwdif)"
        ]
