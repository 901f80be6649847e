"""What compare --page shows: which versions of which clip, with which mask and scores."""

import json
import re

import numpy as np
import pytest
from media_clips import picture, save_frames
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation import compare
from skipsr_jax.evaluation.comparison_page import clips_to_show, grouped, read_masks


@pytest.fixture
def data(tmp_path):
    """DOVE's layout with two clips, and two results, of which one lacks a clip."""
    for folder, clips, size in (
        ("set/GT", "ab", (32, 48)), ("set/LQ", "ab", (8, 12)), ("one", "ab", (32, 48)),
        ("two", "b", (32, 48)),
    ):  # fmt: skip
        for clip in clips:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            save_frames(tmp_path / folder / clip, 5, height=size[0], width=size[1])
    return tmp_path


def shown(clip):
    return [(version.name, version.role) for version in clip.versions]


def test_versions_are_found_by_name_in_one_order(data):
    results = {"one": data / "one", "two": data / "two"}
    seconds = {"two": {"b": {"decode": 2.0}}}
    a, b = clips_to_show(results, data / "set", seconds=seconds)
    assert shown(a) == [("input", "input"), ("one", "result"), ("truth", "truth")]
    assert shown(b)[1:3] == [("one", "result"), ("two", "result")]
    assert b.versions[2].seconds == {"decode": 2.0} and not b.versions[1].seconds
    alone = clips_to_show({"one": data / "one"})
    assert [shown(clip) for clip in alone] == [[("one", "result")]] * 2


def test_masks_belong_to_clips_by_name_or_to_the_only_clip(data):
    keep = np.arange(12).reshape(2, 2, 3) % 2 == 0
    np.save(data / "b.npy", keep)
    a, b = clips_to_show({"one": data / "one"}, masks={"mask": read_masks(data)})
    assert not a.masks and b.masks["mask"].shape == (5, 2, 3)
    np.testing.assert_array_equal(b.masks["mask"][[0, 4]], keep)
    (only,) = clips_to_show(
        {"x": data / "one/a"}, data / "set/GT/a", masks={"mask": read_masks(data)}
    )
    assert only.masks
    np.save(data / "b.npy", keep.astype(float))
    with pytest.raises(UserError, match="booleans"):
        read_masks(data / "b.npy")
    np.savez(data / "several.npz", keep)
    (data / "empty.npy").write_bytes(b"")
    (data / "text.npy").write_bytes(b"no array")
    for name in ("several.npz", "empty.npy", "text.npy"):
        with pytest.raises(UserError, match=f"{name} is damaged, or no .npy file$"):
            read_masks(data / name)
    with pytest.raises(UserError, match=r"mask of a is \(2, 2, 2\), but .*has \(2, 2, 3\)"):
        clips_to_show({"one": data / "one"}, masks={"x": {"a": keep[..., :2]}})
    with pytest.raises(UserError, match="no name is that of a clip: c"):
        clips_to_show({"one": data / "one"}, masks={"x": {"c": keep, "d": keep}})


def test_the_only_mask_of_a_folder_has_the_name_of_the_clip(data):
    clip, masks = {"one": data / "one/a"}, {"x": {"other": np.ones((2, 2, 3), bool)}}
    assert clips_to_show(clip, masks=masks)[0].masks["x"].all()
    with pytest.raises(UserError, match="--mask: no name is that of a clip: other"):
        clips_to_show(clip, masks=masks, masks_by_name=True)


def test_what_is_said_of_many_files_becomes_one_line():
    notes = ["a has no clip for 2 truths", "x/1: no flicker", "y/1: no flicker", "x/2: cut"]
    assert grouped(notes) == [
        "a has no clip for 2 truths", "x/1 and 1 more: no flicker", "x/2: cut",
    ]  # fmt: skip


def test_the_program_writes_the_page_with_its_scores(data):
    Image.fromarray(picture(0)).save(data / "tau_sweep.png")
    page = data / "report.html"
    args = ["compare", f"--result=one={data / 'one'}", f"--truth={data / 'set'}",
            "--metrics=psnr", f"--page={page}", f"--plots={data / 'tau_sweep.png'}"]  # fmt: skip
    compare.run(args)
    found = json.loads(re.search(r'id="contents">(.*?)</script>', page.read_text("utf-8"))[1])
    assert [clip["scores"] for clip in found["clips"]] == [{"one": {"psnr": 80.0}}] * 2
    assert found["means"] == {"one": {"psnr": 80.0}} and found["metrics"][0]["direction"] == 1
    assert found["plots"][0]["caption"] == "tau sweep"
    with pytest.raises(UserError, match="exists"):
        compare.run(args)
    for plot, said in (("a.txt", "a.txt is none of .png"), ("none.svg", "there is no file")):
        with pytest.raises(UserError, match=said):
            compare.run([*args[:-1], "--overwrite", f"--plots={data / plot}"])
    with pytest.raises(UserError, match="name it with --page"):
        compare.run([arg for arg in args if "--page" not in arg])
