"""The files of a page: one HTML file or a folder, complete or not at all."""

import json
import re

import numpy as np
import pytest
from media_clips import picture, save_frames, write_clip

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.page import files
from skipsr_jax.evaluation.page.contents import Clip, Plot, Version
from skipsr_jax.evaluation.page.files import check_page
from skipsr_jax.evaluation.page.write import write_page
from skipsr_jax.media.image_writer import write_image


@pytest.fixture
def clips(tmp_path):
    video = write_clip(tmp_path / "clip.mp4", frames=3)
    folder = save_frames(tmp_path / "frames", 4, height=50, width=60)
    keep = np.ones((1, 3, 4), bool)
    versions = [Version("input", video, "input"), Version('a "result" </script>', folder)]
    return [Clip("clip", versions, {"mask": keep})]


def contents_of(html):
    text = re.search(r'<script type="application/json" id="contents">(.*?)</script>', html)[1]
    return json.loads(text)


def test_one_file_holds_everything_and_asks_no_network(tmp_path, clips):
    path = tmp_path / "page.html"
    write_page(path, clips, title="Cats & dogs", notes=["A note."])
    html = path.read_text("utf-8")
    found = contents_of(html)
    assert "<title>Cats &amp; dogs</title>" in html and "{{" not in html
    assert not re.search(r"(src|href)=\"?https?:", html)
    (clip,) = found["clips"]
    assert (clip["height"], clip["width"], clip["frames"]) == (50, 60, 3)
    for version in clip["versions"]:
        assert f'id="{version["source"][1:]}" data-type="video/mp4"' in html
    assert found["notes"][0] == "A note." and any("length" in note for note in found["notes"])
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_folder_has_the_pictures_beside_its_index(tmp_path, clips):
    write_image(tmp_path / "plot.png", picture(0))
    path = tmp_path / "page"
    write_page(path, clips, title="t", plots=[Plot(tmp_path / "plot.png", "Caption")])
    found = contents_of((path / "index.html").read_text("utf-8"))
    sources = [v["source"] for v in found["clips"][0]["versions"]]
    sources.append(found["plots"][0]["source"])
    assert all((path / source).is_file() for source in sources)
    assert len(list((path / "media").iterdir())) == len(sources)
    with pytest.raises(UserError, match="overwrite"):
        write_page(path, clips, title="t")
    write_page(path, clips, title="new", overwrite=True)
    assert "<title>new</title>" in (path / "index.html").read_text("utf-8")


def test_nothing_but_a_page_is_replaced(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "index.html").write_text("<title>mine</title>")
    with pytest.raises(UserError, match="no page"):
        check_page(folder, overwrite=True)
    (tmp_path / "page.html").touch()
    with pytest.raises(UserError, match="exists"):
        check_page(tmp_path / "page.html")
    check_page(tmp_path / "page.html", overwrite=True)
    (tmp_path / "report").touch()
    with pytest.raises(UserError, match="is a file"):
        check_page(tmp_path / "report", overwrite=True)


def test_the_name_of_another_file_makes_no_folder(tmp_path):
    for name in ("x.txt", "o.mp4"):
        with pytest.raises(UserError, match=rf"no file {name[1:]}: name .*/{name[0]}\.html"):
            check_page(tmp_path / name)
    (tmp_path / "o.mp4").mkdir()
    check_page(tmp_path / "o.mp4")


def test_too_many_pictures_for_one_file_are_refused(tmp_path, clips, monkeypatch):
    monkeypatch.setattr(files, "EMBEDDED_AT_MOST", 1000)
    with pytest.raises(UserError, match="name a folder"):
        write_page(tmp_path / "page.html", clips, title="t")
    assert not (tmp_path / "page.html").exists()


def test_a_damaged_version_leaves_no_page(tmp_path, clips):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no more")
    bad = Clip("bad", [Version("x", broken)])
    for name in ("page.html", "page"):
        with pytest.raises(UserError):
            write_page(tmp_path / name, [*clips, bad], title="t")
        assert not (tmp_path / name).exists()
    assert not list(tmp_path.glob(".*"))
