"""The program of a study: which pairs it takes, and what it says of files of answers."""

import json
import re

import pytest
from media_clips import picture, write_clip
from PIL import Image

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation import study
from skipsr_jax.evaluation.study_page import Key, seal


@pytest.fixture
def results(tmp_path):
    """Two results with clips a to d, of which each lacks one."""
    for folder, names in (("ours", "abc"), ("theirs", "bcd"), ("low", "bc")):
        (tmp_path / folder).mkdir()
        for name in names:
            Image.fromarray(picture(ord(name) - 96)).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def run(*arguments):
    return study.run(["study", *map(str, arguments)])


def contents_of(page):
    return json.loads(re.search(r'id="contents">(.*?)</script>', page.read_text("utf-8"))[1])


def test_it_shows_the_clips_that_both_have(results):
    args = [f"--a=us={results}/ours", f"--b={results}/theirs", f"--input={results}/low"]
    said = run(*args, f"--out={results}/study.html", "--question=Sharper?")
    assert "2 pairs of us and theirs" in said and "lacks them: a, d" in said
    found = contents_of(results / "study.html")
    assert found["question"] == "Sharper?" and len(found["pairs"]) == 2
    assert set(found["pairs"][0]["versions"]) == {"x", "y", "input"}
    run(*args, f"--out={results}/one.html", "--samples=1")
    assert len(contents_of(results / "one.html")["pairs"]) == 1


def test_numbered_pictures_are_one_clip_or_many(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.fromarray(picture(index)).save(tmp_path / f"{name}/{index}.png")
    args = [f"--a={tmp_path}/a", f"--b={tmp_path}/b"]
    assert "1 pair of a and b" in run(*args, f"--out={tmp_path}/one.html")
    assert "3 pairs" in run(*args, f"--out={tmp_path}/many.html", "--folder=files")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--a=ours"], "--b is missing"),
        (["--a=ours", "--b=theirs"], "--out is missing"),
        (["--a=ours", "--b=theirs", "--out=s.html", "--samples=3"], "2 clips in common"),
        (["--a=ours", "--b=theirs", "--out=s.html", "--input=ours/a.png"], "no input of b"),
        (["--a=ours/a.png", "--b=theirs/d.png", "--out=s.html", "--input=low"], "no input of a"),
        (["--a=ours/a.png", "--b=theirs/d.png", "--out=s.html", "--samples=2"], "1 clip in"),
        (["--a=low", "--b=theirs/d.png", "--out=s.html"], "no clip in common"),
        (["--score=nothing*.json"], "no file has the name"),
        (["--a=x=ours", "--b=x=theirs", "--out=s.html"], "have the name x: write --b=another="),
        (["--a=x=ours", "--b=y=./ours/", "--out=s.html"], "are both ours: name two results"),
        (["--a==ours", "--b=theirs", "--out=s.html"], "--a==ours: write a name and a path"),
    ],
)
def test_mistakes_are_said(results, monkeypatch, arguments, says):
    monkeypatch.chdir(results)
    with pytest.raises(UserError, match=re.escape(says)):
        run(*arguments)
    assert not (results / "s.html").exists()


def test_clips_of_different_lengths_are_said(tmp_path):
    for name, frames in (("a", 3), ("b", 2)):
        write_clip(tmp_path / f"{name}.mp4", frames=frames)
    arguments = [f"--a={tmp_path}/a.mp4", f"--b={tmp_path}/b.mp4"]
    said = run(*arguments, f"--out={tmp_path}/cut.html")
    assert "cut to the shortest of a, b and the input: a (3, 2 frames)" in said
    assert "cut" not in run(*arguments, f"--out={tmp_path}/2.html", "--frames=2").split("\n", 1)[-1]


KEY = Key("ours", "theirs", ["a", "b", "c"], [True, False, True])


def save(path, viewer, answers, key=KEY):
    given = [{"pair": pair, "answer": answer} for pair, answer in enumerate(answers)]
    path.write_text(json.dumps({"viewer": viewer, "key": seal(key), "answers": given}))


def test_it_scores_the_files_of_all_viewers(tmp_path):
    save(tmp_path / "ada.json", "Ada", ["x", "y", "same"])  # ours, ours, same
    save(tmp_path / "bo.json", "Bo", ["y", "y", "x"])  # theirs, ours, ours
    out = tmp_path / "score.txt"
    said = run(f"--score={tmp_path}/*.json", f"--out={out}")
    assert "preference of ours over theirs" in said and "2 viewers, 3 clips" in said
    assert "1 worse; 6 of 6 pairs answered" in said and "3 of 3 pairs answered" in said
    assert re.search(r"all +\+50\.0 %  \[[-+]\d.*4 better, 1 same, 1 worse", said)
    assert re.search(r"Ada +\+66\.7 %", said) and re.search(r"Bo +\+33\.3 %", said)
    found = json.loads(out.read_text())
    assert found["score"] == 0.5 and found["low"] < 0.5 < found["high"]
    assert ["Bo", "a", -1] in found["answers"]


def test_a_single_answer_has_no_interval(tmp_path):
    (tmp_path / "answers").mkdir()
    save(tmp_path / "answers/ada.json", "Ada", ["x"])
    out = tmp_path / "score.txt"
    said = run(f"--score={tmp_path}/answers", f"--out={out}")
    assert "1 viewer, 1 clip\n" in said and "no interval  1 better, 0 same, 0 worse; 1 of 3" in said
    found = json.loads(out.read_text())
    assert (found["low"], found["high"], found["pairs"]) == (None, None, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no file has the name .*empty/\*\.json"):
        run(f"--score={tmp_path}/empty")


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    save(tmp_path / "1.json", "Ada", ["x"])
    save(tmp_path / "2.json", "Ada", ["y"])
    with pytest.raises(UserError, match="both of the viewer 'Ada'"):
        run(f"--score={tmp_path}/*.json")
    save(tmp_path / "2.json", "Bo", ["y"], Key("ours", "others", ["a"], [True]))
    with pytest.raises(UserError, match="different studies"):
        run(f"--score={tmp_path}/1.json,{tmp_path}/2.json")
    save(tmp_path / "1.json", "Ada", [])
    with pytest.raises(UserError, match="no answer"):
        run(f"--score={tmp_path}/1.json")


GOOD = {"viewer": "Ada", "key": seal(KEY), "answers": [{"pair": 0, "answer": "x"}]}


def answered(*pairs):
    return GOOD | {"answers": [{"pair": pair, "answer": "x"} for pair in pairs]}


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        (answered(0, 1, 0), "pair 0 is answered twice"),
        (answered(-1), "pair is -1, but there are pairs 0 to 2"),
        (answered(3), "pair is 3, but there are pairs 0 to 2"),
        (answered(True), "pair is true, not a whole number"),
        (answered("0"), 'pair is "0", not a whole number'),
        (GOOD | {"viewer": None}, "viewer is null, not text"),
        (GOOD | {"viewer": ["Ada"]}, 'viewer is ["Ada"], not text'),
        (GOOD | {"viewer": " "}, "viewer is empty"),
        (GOOD | {"answers": {}}, "answers is {}, not a list"),
        (GOOD | {"answers": [7]}, "pair is missing"),
        (GOOD | {"answers": [{"pair": 0, "answer": "z"}]}, "answer is 'z', which is none of x"),
        ({"viewer": "Ada"}, "key is missing"),
        ([], "key is missing"),
        (GOOD | {"key": "AAAA"}, "its key cannot be read"),
        (GOOD | {"key": seal(Key("a", "b", ["c", "c"], [True, False]))}, "is not that of a study"),
        (GOOD | {"key": seal(Key("a", "b", ["c"], []))}, "its key is not that of a study"),
    ],
)
def test_broken_answers_are_one_line(tmp_path, capsys, saved, says):
    path = tmp_path / "ada.json"
    path.write_text(json.dumps(saved))
    assert study.main(["study", f"--score={path}"]) == 1
    said = capsys.readouterr().err
    assert f"{path} holds no answers of a study: " in said and says in said
    assert said.count("\n") == 1


def test_damaged_files_are_named(tmp_path):
    for name in "ab":
        write_clip(tmp_path / f"{name}.mp4", frames=24)
    results = f"--a={tmp_path}/a.mp4", f"--b={tmp_path}/b.mp4"
    lines = run(*results, f"--out={tmp_path}/whole.html").splitlines()
    assert len(lines) == 2 and lines[1].endswith("b.mp4, which has another name")
    whole = (tmp_path / "b.mp4").read_bytes()
    start = whole.index(b"mdat") + len(whole) // 3
    (tmp_path / "b.mp4").write_bytes(whole[:start] + bytes(400) + whole[start + 400 :])
    said = run(*results, f"--out={tmp_path}/damaged.html")
    assert any("b.mp4" in line for line in said.splitlines()[2:])
