"""The Python API: sizes, dtypes, overrides, streaming in bounded memory, and mistakes."""

import itertools
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import small_model

from skipsr_jax import Upscaler
from skipsr_jax.errors import UserError
from skipsr_jax.inference.model import Model
from skipsr_jax.inference.program_cache import Program, ProgramCache
from skipsr_jax.inference.report import Report

CHUNK = {"frames": 5, "overlap": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small_model.write_small_model(tmp_path_factory.mktemp("api") / "model")


@pytest.fixture(scope="module")
def upscaler(checkpoint):
    return Upscaler("tiny", checkpoint=checkpoint, mask={"source": "input"}, chunk=CHUNK)


def picture(seed=0, dtype=np.uint8):
    """16 x 20 pixels, flat on the left, noise on the right."""
    frame = np.full((16, 20, 3), 100, dtype)
    frame[:, 12:] = np.random.default_rng(seed).integers(0, 255, (16, 8, 3))
    return frame


def test_the_package_is_imported_without_jax():
    code = "import sys, skipsr_jax; assert 'jax' not in sys.modules; skipsr_jax.Upscaler"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import skipsr_jax; assert 'Upscaler' in dir(skipsr_jax); skipsr_jax.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "has no attribute 'nothing'" in done.stderr


def test_a_stream_gives_a_frame_and_a_mask_for_each_frame(upscaler):
    frames = [picture(seed) for seed in range(7)]
    report = Report()
    pairs = list(upscaler.stream(iter(frames), scale=2, report=report))
    assert len(pairs) == report.frames == 7
    for frame, keep in pairs:
        assert (frame.shape, frame.dtype) == ((32, 40, 3), np.uint8)
        assert (keep.shape, keep.dtype) == ((2, 3), bool)
        assert not keep[:, 0].any() and keep[:, 2].all()
    assert 0 < report.skipped < 1 and report.attention and report.seconds["refine"] > 0
    again = upscaler.upscale(np.stack(frames), scale=2)
    np.testing.assert_array_equal(again, np.stack([frame for frame, _ in pairs]))


def test_pictures_and_16_bits(upscaler):
    made = upscaler.upscale(picture(), height=32)
    assert (made.shape, made.dtype) == ((32, 40, 3), np.uint8)
    deep = upscaler.upscale(picture(dtype=np.uint16) * np.uint16(257), height=32, width=40)
    assert deep.dtype == np.uint16
    assert np.abs(deep / 257 - made).max() <= 0.51


def test_results_come_before_the_clip_ends_and_leaving_early_ends_the_threads(upscaler):
    taken, before = itertools.count(), threading.active_count()
    endless = (picture(next(taken)) for _ in itertools.repeat(None))
    stream = upscaler.stream(endless, scale=2)
    for _ in range(3):
        next(stream)
    assert next(taken) < 60  # chunks of 5, and 8 frames on either side
    stream.close()
    assert threading.active_count() == before
    assert list(upscaler.stream([], scale=2)) == []


def test_the_sizes_of_the_settings_hold_where_none_is_asked_for(checkpoint):
    sizes = {"size": {"factor": 2.0}, "max_frames": 1}
    upscaler = Upscaler("tiny", checkpoint=checkpoint, mask={"source": "none"}, **sizes)
    assert upscaler.settings.chunk.frames == 33  # as the config says
    assert upscaler.upscale(np.stack([picture()] * 3)).shape == (1, 32, 40, 3)
    same = Upscaler(upscaler.settings, seed=1)
    assert (same.settings.seed, same.settings.size.factor) == (1, 2.0)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"mask": {"sorce": "input"}}, "did you mean mask.source"),
        ({"mask_source": "input"}, "unknown mask_source"),
        ({"sampler": {"steps": "one"}}, "sampler.steps"),
        ({"sampler": {"steps": 0}}, "from 1 to 1000"),
        ({"mask": "input"}, "mask"),
        ({"seed": {"value": 3}}, "seed"),
        ({"checkpoint": "nowhere"}, "nowhere: no such checkpoint"),
    ],
)
def test_overrides_that_are_wrong(overrides, says):
    with pytest.raises(UserError, match=says):
        Upscaler("tiny", **overrides)
    with pytest.raises(UserError, match=r"there is no config 'tinny'.*tiny"):
        Upscaler("tinny")


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"scale": 40}, "factor is 40.0: it must be from 0.25 to 16"),
        ({"height": 3}, "height is 3"),
        ({"scale": 2, "width": 64}, "not both"),
    ],
)
def test_sizes_that_are_wrong_are_refused_at_once(upscaler, sizes, says):
    with pytest.raises(UserError, match=says):
        upscaler.stream([picture()], **sizes)


def test_frames_that_are_wrong(upscaler):
    good = picture()
    cases = {
        "frame 0 has dtype float32": [good / np.float32(255)],
        "frame 0 has shape": [good[..., :1]],
        r"frame 1 is uint16.*alike": [good, good.astype(np.uint16)],
        r"frame 1 is uint8\(8": [good, good[:8]],
    }
    for says, frames in cases.items():
        with pytest.raises(UserError, match=says):
            list(upscaler.stream(frames, scale=2))
    for array in (good[0], good[:0], np.zeros((0, 16, 20, 3), np.uint8)):
        with pytest.raises(UserError, match="the array has shape"):
            upscaler.upscale(array, scale=2)


def test_what_is_reserved_is_what_runs(checkpoint):
    """Programs compiled from shapes are those that the arrays of a clip ask for."""
    up = Upscaler("tiny", checkpoint=checkpoint, mask={"source": "none"}, chunk={"frames": 9})
    up.reserve([(20, (64, 96))])
    programs = up.programs
    expected = [programs._velocity, *programs.coder._dense(1)]
    assert [program.signatures for program in expected] == [1, 2, 2]
    frames = np.zeros((11, 16, 24, 3), np.uint8)
    assert len(list(up.stream(frames, scale=4))) == 11
    assert [program.signatures for program in expected] == [1, 2, 2]
    # Another aspect, size and length, and no further program of the transformer.
    assert len(list(up.stream(frames[:3, :, :12], scale=4))) == 3
    assert programs.compiled_transformers == 1


def test_programs_of_clips_begin_before_the_parameters_are_read(checkpoint, monkeypatch):
    begun, prepared, prepare, read = [], [], Program.prepare, Model.load

    def load(model):
        begun.append(sorted({program.name for program in prepared}))
        read(model)

    def noted(program, *arguments, **static):
        prepared.append(program)
        return prepare(program, *arguments, **static)

    monkeypatch.setattr(Program, "prepare", noted)
    monkeypatch.setattr(Model, "load", load)
    up = Upscaler("tiny", checkpoint=checkpoint, mask={"source": "input"}, clips=[(1, (32, 32))])
    assert begun == [["decode, 1 tiles", "encode, 1 tiles", "transformer"]]
    assert up.upscale(picture(), height=32, width=32).shape == (32, 32, 3)
    counts = up.programs.cache.counts
    assert sum(p.signatures for p in set(prepared)) == counts.compiled  # none for other arguments


def test_a_damaged_checkpoint_ends_what_was_begun(checkpoint, monkeypatch):
    def load(model):
        raise UserError("half-copied")

    monkeypatch.setattr(Model, "load", load)
    cancelled = []
    monkeypatch.setattr(ProgramCache, "cancel", lambda cache: cancelled.append(cache))
    with pytest.raises(UserError, match="half-copied"):
        Upscaler("tiny", checkpoint=checkpoint, mask={"source": "input"}, clips=[(1, (32, 32))])
    assert len(cancelled) == 1


@pytest.mark.usefixtures("cache_of_jax")
def test_a_warm_start_traces_nothing_to_prepare(checkpoint, tmp_path, monkeypatch):
    """Programs that are kept are loaded; those of other clips wait until their clip comes."""
    options = {"checkpoint": checkpoint, "cache": tmp_path, "mask": {"source": "none"}}
    frames, sizes = np.zeros((5, 8, 8, 3), np.uint8), [(5, (32, 32)), (5, (48, 32))]
    cold = Upscaler("tiny", **options)
    cold.reserve(sizes)
    assert [program.signatures for program in cold.programs.coder._dense(1)] == [2, 2]
    assert "the compiler" in str(cold.memory)
    want = [frame for frame, _ in cold.stream(frames, scale=4)]
    alone = Upscaler("tiny", **options, clips=sizes[:1])
    assert "the process" in str(alone.memory) and "the compiler" not in str(alone.memory)
    monkeypatch.setattr(Program, "shapes", None)  # the only tracing of reserve
    warm = Upscaler("tiny", **options)
    warm.reserve(sizes)
    assert [program.signatures for program in warm.programs.coder._dense(1)] == [1, 1]
    got = [frame for frame, _ in warm.stream(frames, scale=4)]
    np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_the_shipped_model_shows_what_its_transformer_makes():
    """A decoder that adds to the upscaled input could do without the latent, and nobody sees it."""
    up = Upscaler("tiny", mask={"source": "none"})
    frame = up.upscale(picture(), scale=4)
    params = up.programs.model.params
    params["dit"] = jax.tree.map(lambda x: 2 * x, params["dit"])
    assert np.mean(up.upscale(picture(), scale=4) != frame) > 0.5
