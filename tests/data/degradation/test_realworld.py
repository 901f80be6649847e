"""Real-world degradation: one draw for a clip, a function of the generator, levels that count."""

import dataclasses

import numpy as np
import pytest

from skipsr_jax.data.degradation import realworld
from skipsr_jax.data.degradation.degrade import degraded, low_quality, low_size
from skipsr_jax.data.degradation.levels import RealWorld, Round
from skipsr_jax.data.degradation.realworld import apply, draw
from skipsr_jax.data.oracle import oracle_mask

CALM = Round(blur_share=0.0, resize=(1.0, 1.0), noise_share=0.0, jpeg_share=0.0)
NOTHING = RealWorld(first=CALM, second=CALM, video_share=0.0)


def still(frames=5, height=64, width=96, seed=0):
    """One smooth picture with edges, shown for all frames."""
    y, x = np.mgrid[:height, :width]
    texture = np.random.default_rng(seed).integers(0, 60, (height // 8, width // 8, 3))
    base = np.repeat(np.repeat(texture, 8, 0), 8, 1) + np.stack([x, y, x + y], -1)
    return np.broadcast_to(base, (frames, *base.shape)).astype(np.uint8)


def run(levels, frames, seed=0, scale=4):
    rng = np.random.default_rng(seed)
    return apply(frames, low_size(frames.shape[1:3], scale), draw(levels, rng), rng)


@pytest.mark.parametrize("seed", range(6))
def test_result_is_a_function_of_the_generator_alone(seed):
    frames = still()
    got = run(RealWorld(), frames, seed)
    assert got.shape == (5, 16, 24, 3) and got.dtype == np.uint8
    np.testing.assert_array_equal(got, run(RealWorld(), frames, seed))
    assert not np.array_equal(got, run(RealWorld(), frames, seed + 1))


def test_nothing_switched_on_is_plain_downsampling():
    frames = still()
    calm = dataclasses.replace(draw(NOTHING, np.random.default_rng(0)).first, method="area")
    drawn = realworld.Drawn(calm, calm, "area", None)
    small = apply(frames, (16, 24), drawn, np.random.default_rng(0))
    assert np.abs(small.astype(int) - low_quality(frames, 4)).max() <= 1


PARTS = {
    "isotropic": {"blur_share": 1.0, "blur_kinds": (1.0, 0.0, 0.0), "blur_sigma": (2.5, 3.0)},
    "anisotropic": {"blur_share": 1.0, "blur_kinds": (0.0, 1.0, 0.0), "blur_sigma": (1.0, 6.0)},
    "sinc": {"blur_share": 1.0, "blur_kinds": (0.0, 0.0, 1.0), "sinc_cutoff": (0.5, 0.6)},
    "resize": {"resize": (0.1, 0.12)},
    "gaussian": {"noise_share": 1.0, "poisson_share": 0.0, "noise_sigma": (30.0, 31.0)},
    "poisson": {"noise_share": 1.0, "poisson_share": 1.0, "photons": (30.0, 31.0)},
    "jpeg": {"jpeg_share": 1.0, "jpeg_quality": (5, 6)},
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("place", ["first", "second"])
def test_each_part_acts_in_each_round_and_alike_on_all_frames(part, place):
    frames = still()
    levels = dataclasses.replace(CALM, **PARTS[part])
    got = run(dataclasses.replace(NOTHING, **{place: levels}), frames, seed=3)
    without = run(NOTHING, frames, seed=3)
    assert np.abs(got.astype(int) - without).mean() > 0.8
    noisy = part in ("gaussian", "poisson")
    assert np.array_equal(got[0], got[1]) != noisy  # one draw for the clip; noise is each frame's
    if noisy:
        spread = (got.astype(float) - got.mean(0)).std((1, 2, 3))
        assert spread.max() < 1.3 * spread.min()


@pytest.mark.parametrize("index", range(3))
def test_clips_end_as_videos_and_pictures_do_not(index):
    weights = tuple(float(i == index) for i in range(3))
    levels = dataclasses.replace(
        NOTHING, video_share=1.0, video_codecs=weights, crf=(40, 40), mpeg4_quantizer=(30, 30)
    )
    drawn = draw(levels, np.random.default_rng(0))
    quality = 30 if index == 2 else 40
    assert drawn.video == (("h264", "hevc", "mpeg4")[index], quality)
    bare = dataclasses.replace(drawn, video=None)
    for count, differs in ((5, True), (1, False)):
        frames, rng = still(count), np.random.default_rng(0)
        same = np.array_equal(*(apply(frames, (16, 24), x, rng) for x in (drawn, bare)))
        assert same != differs


def test_the_drawn_methods_are_the_ones_used():
    frames, rng = still(), np.random.default_rng(0)
    drawn = draw(
        dataclasses.replace(NOTHING, second=dataclasses.replace(CALM, resize=(1.5, 1.5))), rng
    )
    for place in ("first", "second", "last"):
        results = []
        for method in ("area", "bilinear", "bicubic"):
            if place == "last":
                changed = dataclasses.replace(drawn, method=method)
            else:
                part = dataclasses.replace(getattr(drawn, place), method=method, factor=1.5)
                changed = dataclasses.replace(drawn, **{place: part})
            results.append(apply(frames, (16, 24), changed, rng))
        assert all(not np.array_equal(results[i], results[i - 1]) for i in range(3)), place


def test_draws_stay_in_their_ranges_and_use_all_kinds():
    levels, rng = RealWorld(), np.random.default_rng(0)
    drawn = [draw(levels, rng) for _ in range(300)]
    assert {d.first.method for d in drawn} == {"area", "bilinear", "bicubic"}
    assert {d.first.noise for d in drawn} == {"gaussian", "poisson", None}
    assert {d.video and d.video[0] for d in drawn} == {"h264", "hevc", "mpeg4", None}
    assert 0.75 < np.mean([d.second.kernel is not None for d in drawn]) < 0.85
    factors = [d.first.factor for d in drawn]
    assert levels.first.resize[0] <= min(factors) < 0.4 and 1.2 < max(factors) <= 1.5
    qualities = {d.first.jpeg_quality for d in drawn} - {None}
    assert min(qualities) >= 30 and max(qualities) <= 95 and len(qualities) > 40


def test_the_mask_of_a_degraded_clip_keeps_what_was_corrupted():
    frames = np.full((5, 64, 96, 3), 120, np.uint8)  # flat: Eq. 1 would skip all of it
    noisy = dataclasses.replace(CALM, **PARTS["gaussian"])
    small = run(dataclasses.replace(NOTHING, second=noisy), frames)
    assert not oracle_mask(frames).any() and oracle_mask(frames, small=small).all()
    assert not oracle_mask(frames, small=run(NOTHING, frames)).any()


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_plain_methods_downsample_without_the_generator(method):
    frames, rng = still(), np.random.default_rng(0)
    small = degraded(frames, 4, method, rng)
    assert small.shape == (5, 16, 24, 3)
    assert rng.random() == np.random.default_rng(0).random()
    if method == "bilinear":  # the centre of four pixels is the mean of the inner two by two
        inner = (
            frames.reshape(5, 16, 4, 24, 4, 3)[:, :, 1:3, :, 1:3].astype(np.float32).mean((2, 4))
        )
        np.testing.assert_array_equal(small, np.rint(inner).astype(np.uint8))


def test_refusals():
    with pytest.raises(ValueError, match="jpeg_quality"):
        Round(jpeg_quality=(0, 200))
    with pytest.raises(ValueError, match="noise_share"):
        Round(noise_share=1.5)
    with pytest.raises(ValueError, match="crf"):
        RealWorld(crf=(30, 20))
    with pytest.raises(ValueError, match="multiples of 4"):
        run(RealWorld(), still()[:, :63])
    with pytest.raises(ValueError, match="multiples of 4"):
        degraded(still()[:, :63], 4, "bicubic", np.random.default_rng(0))
