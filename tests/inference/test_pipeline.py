"""The pipeline on arrays: masks, seeds and what each setting changes."""

import dataclasses
import itertools
import pathlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_model

from skipsr_jax.errors import UserError
from skipsr_jax.inference import pipeline
from skipsr_jax.inference.finite_check import FiniteCheck
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.pipeline import FRAMES_IN_FLIGHT, download, upscale_frames
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Mask, from_config
from skipsr_jax.media.resize import upscale
from skipsr_jax.models.params import flatten, unflatten

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = (32, 40)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    path = small_model.write_small_model(tmp_path_factory.mktemp("upscale") / "model")
    return Programs(load_model(path, "float32", Mask("predictor")))


@pytest.fixture(scope="module")
def light_programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("light") / "model"
    path = small_model.write_small_model(folder, light_coder=True)
    return Programs(load_model(path, "float32", Mask("predictor")))


@pytest.fixture(scope="module")
def settings():
    found = from_config(runpy.run_path(str(ROOT / "configs" / "tiny.py"))["get_config"]())
    return dataclasses.replace(found, mask=Mask("predictor"))


@pytest.fixture(scope="module")
def clip():
    """5 frames of 16 x 20, flat on the left, noise on the right."""
    frames = np.full((5, 16, 20, 3), 100, np.uint8)
    frames[:, :, 12:] = np.random.default_rng(0).integers(0, 255, (5, 16, 8, 3))
    return frames


def run(programs, settings, clip, reference=None, target=TARGET, **parts):
    """Frames, keep masks and the report; ``parts`` replace fields of the settings' parts."""
    for name, fields in parts.items():
        old = getattr(settings, name)
        new = dataclasses.replace(old, **fields) if isinstance(fields, dict) else fields
        settings = dataclasses.replace(settings, **{name: new})
    report = Report()
    pairs = list(upscale_frames(iter(clip), target, programs, settings, report, reference, [32]))
    return np.stack([p for [(p,)], _ in pairs]), np.stack([k for _, k in pairs]), report


def coded(report):
    return report.coded("encode"), report.coded("decode")


@pytest.mark.slow
def test_nothing_skipped_equals_dense(programs, settings, clip):
    dense, keep, report = run(programs, settings, clip, mask={"source": "none"})
    assert dense.shape == (5, *TARGET, 3)
    assert keep.all()
    assert report.skipped == 0
    same, _, _ = run(programs, settings, clip, mask={"probability": 0.0})
    np.testing.assert_array_equal(same, dense)


@pytest.mark.slow
def test_the_seed_decides(programs, settings, clip):
    one, again, other = (
        run(programs, settings, clip, mask={"source": "none"}, seed=seed)[0] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-4


def test_masks_of_all_sources(programs, settings, clip):
    truth = np.rint(upscale(clip, TARGET) * 255).astype(np.uint8)
    truth[:, :, 24:] = np.random.default_rng(1).integers(0, 255, (5, 32, 16, 3))
    given = upscale(clip, TARGET)
    oracle = {"source": "oracle", "reference": "in memory"}
    for reference, mask in ((None, {"source": "input"}), (iter(truth), oracle)):
        frames, keep, report = run(programs, settings, clip, reference, mask=mask)
        np.testing.assert_array_equal(keep[:, :, 0], False)
        assert keep[:, :, 2].all()
        assert 0 < report.skipped < 1
        np.testing.assert_allclose(frames[:, :, :16], given[:, :, :16], atol=1e-6)
    _, grown, _ = run(programs, settings, clip, mask={"source": "input", "dilate": 2})
    assert grown.all()


def test_a_reference_that_does_not_fit_is_refused(programs, settings, clip):
    oracle = {"source": "oracle", "reference": "in memory"}
    for truth in (clip, np.zeros((3, *TARGET, 3), np.uint8)):
        with pytest.raises(UserError, match="40x32"):
            run(programs, settings, clip, iter(truth), mask=oracle)


def test_every_pixel_setting_changes_pixels(programs, settings, clip):
    mask = {"source": "input"}
    usual, _, _ = run(programs, settings, clip, mask=mask)
    for change in ({"colour": "adain"}, {"colour": "none"}, {"feather": 0}):
        other, _, _ = run(programs, settings, clip, mask=mask, pixels=change)
        assert np.abs(usual - other).max() > 1e-3, change
    other, keep, _ = run(programs, settings, clip, mask=mask, pixels={"keep_skipped": False})
    skipped = ~np.repeat(np.repeat(keep, 16, 1), 16, 2)[:, :32, :40]
    assert np.abs(usual - other)[skipped].max() > 1e-3


def test_memory_that_cannot_do_is_refused(programs, settings, clip):
    with pytest.raises(UserError, match="vae_memory_gib"):
        run(programs, settings, clip, vae_memory_gib=1e-6)


def test_16_bit_frames(programs, settings, clip):
    deep = clip.astype(np.uint16) * 257
    eight, _, _ = run(programs, settings, clip, mask={"source": "none"})
    sixteen, _, _ = run(programs, settings, deep, mask={"source": "none"})
    np.testing.assert_allclose(eight, sixteen, atol=1e-4)


def test_sparse_coding(programs, settings, clip):
    """The first latent frame is whole; later the kept patches' own, near what dense coding gives;
    skipped ones hold the input."""
    mask = {"source": "input"}
    dense, keep, whole = run(programs, settings, clip, mask=mask)
    decoded, same, report = run(programs, settings, clip, mask=mask, decode="sparse")
    np.testing.assert_array_equal(keep, same)
    np.testing.assert_allclose(decoded[0], dense[0], atol=1e-4)
    pixels = np.repeat(np.repeat(keep, 16, 1), 16, 2)[:, :32, :40]
    np.testing.assert_array_equal(decoded[~pixels], dense[~pixels])
    error = np.abs(decoded - dense)[1:]
    assert error.max() > 0 and error.mean() < 0.1 * np.abs(dense - 0.5).mean()
    assert coded(whole) == (1, 1)
    assert report.coded("encode") == 1 and 0 < report.coded("decode") < 1

    encoded, same, report = run(programs, settings, clip, mask=mask, encode="sparse")
    np.testing.assert_array_equal(keep, same)
    assert 0 < report.coded("encode") < 1
    assert np.abs(encoded - dense)[1:].max() > 0
    np.testing.assert_array_equal(encoded[~pixels], dense[~pixels])


def test_auto_is_sparse_where_few_blocks_are_kept_in_one_scene(programs, settings, clip):
    mask = {"source": "input"}
    _, keep, _ = run(programs, settings, clip, mask=mask)
    share = float(keep[1:].mean())
    few = {"mask": mask, "decode": "auto", "encode": "auto", "sparse_up_to": 1.0}
    # A short run does not compile sparse programs unless it is told to take the smallest sizes.
    assert coded(run(programs, settings, clip, **few)[2]) == (1, 1)
    few["buckets"] = "fine"
    assert coded(run(programs, settings, clip, **few)[2]) < (1, 1)
    many = few | {"sparse_up_to": 0.9 * share}
    assert coded(run(programs, settings, clip, **many)[2]) == (1, 1)
    other = np.repeat(clip[:1], 5, axis=0)
    other[3:, :, :12] = 200
    assert coded(run(programs, settings, other, **few)[2]) == (1, 1)
    on_latents = few | {"mask": {"source": "predictor"}, "decode": "dense"}
    assert run(programs, settings, clip, **on_latents)[2].coded("encode") == 1


def test_sparse_encoding_needs_a_mask_before_the_latent(programs, settings, clip):
    with pytest.raises(UserError, match=r"config\.encode=dense or config\.mask\.source=input"):
        run(programs, settings, clip, encode="sparse")


def test_the_light_coder_runs_in_place_of_the_full_one(light_programs, settings, clip):
    """The first frames of slices of one or two latent frames are the same, and the summary says
    which coder ran."""
    mask = {"source": "input"}
    frames, keep, report = run(light_programs, settings, clip, mask=mask)
    assert light_programs.model.coder_kind == report.coder == "light"
    assert any("by the light coder" in line for line in report.lines())
    assert keep.any() and not keep.all() and np.isfinite(frames).all()
    in_one, _, _ = run(light_programs, settings, clip, mask=mask, slice_latents=2)
    np.testing.assert_allclose(in_one, frames, atol=1e-6)


def test_the_light_coder_decodes_sparsely_what_it_decodes_densely(light_programs, settings):
    """With kept patches in one corner of a frame of 96 x 128 pixels."""
    frames = np.full((5, 24, 32, 3), 100, np.uint8)
    frames[:, :8, :8] = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 3))
    large = {"mask": {"source": "input"}, "pixels": {"colour": "none"}, "target": (96, 128)}
    dense, keep, whole = run(light_programs, settings, frames, decode="dense", **large)
    sparse, same, report = run(light_programs, settings, frames, decode="sparse", **large)
    np.testing.assert_array_equal(keep, same)
    assert report.coded("decode") < whole.coded("decode") == 1
    np.testing.assert_allclose(sparse, dense, atol=1e-5)
    assert np.ptp(dense[1]) > 0.1
    with pytest.raises(UserError, match=r"config\.encode=sparse needs the full coder"):
        run(light_programs, settings, frames, encode="sparse")


def test_a_checkpoint_without_the_coder_that_is_asked_for_is_refused(tmp_path):
    path = small_model.write_small_model(tmp_path / "model")
    assert load_model(path, "float32").coder_kind == "full"
    with pytest.raises(UserError, match=r"has no light_coder .*: set config\.coder=full"):
        load_model(path, "float32", coder="light")


def test_auto_loads_the_light_coder_alone_where_there_is_one(light_programs, tmp_path):
    assert set(light_programs.model.params["coder"]["decoder"]) >= {"eighth", "quarter", "half"}
    path = small_model.write_small_model(tmp_path / "model", light_coder=True)
    model = load_model(path, "float32", coder="full")
    assert model.coder_kind == "full" and "down_blocks" in model.params["coder"]["encoder"]


@pytest.mark.parametrize(
    ("part", "path", "value", "says"),
    [
        ("coder", "decoder/conv_out/bias", np.nan, "the frames are not finite"),
        ("coder", "decoder/conv_out/bias", np.inf, "the frames are not finite"),  # clipped: white
        ("dit", "vid_out/bias", np.nan, "the frames are not finite"),
        ("predictor", "layers/3/bias", np.nan, "the logits of the mask predictor are not finite"),
    ],
)
def test_no_frame_comes_of_numbers_that_are_not_finite(
    programs, settings, clip, monkeypatch, part, path, value, says
):
    flat = flatten(programs.model.params[part])
    damaged = unflatten(flat | {path: jnp.full_like(flat[path], value)})
    monkeypatch.setitem(programs.model.params, part, damaged)
    source = "predictor" if part == "predictor" else "none"
    of_all = dataclasses.replace(settings, mask=Mask(source))
    frames = upscale_frames(iter(clip), TARGET, programs, of_all, Report())
    with pytest.raises(UserError, match=says):
        next(frames)


def test_frames_before_the_ones_that_are_not_finite_come(programs, settings, clip, monkeypatch):
    """In chunks of 5 frames, of which the second one is damaged."""
    composite, calls = programs.composite, itertools.count()

    def second_is_bad(*args, **named):
        frames, finite = composite(*args, **named)
        return frames, finite & (next(calls) < 2)  # a chunk has two slices

    monkeypatch.setattr(programs, "composite", second_is_bad)
    chunk = dataclasses.replace(settings.chunk, frames=5, overlap=1)
    short = dataclasses.replace(settings, chunk=chunk, mask=Mask("none"))
    twice = itertools.chain(clip, clip)
    came = []
    with pytest.raises(UserError, match="not finite"):
        for codes, _ in upscale_frames(twice, TARGET, programs, short, Report()):
            came.append(codes)
    assert len(came) == 4


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_how_many_frames_a_device_is_asked_for(programs, monkeypatch, platform):
    """An accelerator as many as its memory may hold; a CPU, whose frames take the host's, few."""
    frame, asked = jnp.zeros((2, 2, 3)), []
    monkeypatch.setattr(type(frame), "is_ready", lambda self: False)  # before it is downloaded
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setattr(pipeline, "BYTES_IN_FLIGHT", 20 * frame.nbytes)
    frames = (asked.append(i) or (frame, np.ones((1, 1), bool)) for i in range(50))
    made = download(frames, [32], programs, Report(), FiniteCheck("model", jnp.float32))
    next(made)
    assert len(asked) == 1 + {"cpu": FRAMES_IN_FLIGHT, "gpu": 20}[platform]
    assert 1 + sum(1 for _ in made) == 50
