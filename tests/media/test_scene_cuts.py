"""Scene cuts: found where scenes are joined, not where things move, flicker or fade."""

import numpy as np
import pytest

from skipsr_jax.media.scene_cuts import find_cuts


def scene(seed, frames, speed=0, height=64, width=80):
    """A window that moves by ``speed`` pixels a frame over a picture of blocks."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (12, 40, 3), np.uint8)
    picture = np.repeat(np.repeat(blocks, 16, 0), 16, 1)
    return np.stack([picture[:height, speed * i : speed * i + width] for i in range(frames)])


def test_joined_scenes_are_cut_where_they_are_joined():
    frames = np.concatenate([scene(0, 7), scene(1, 9, 3), scene(2, 6, 1)])
    assert find_cuts(frames) == (7, 16)
    assert find_cuts(iter(frames)) == (7, 16)
    for lead in (1, 4):  # the place moves with the frames
        assert find_cuts(frames[lead:]) == (7 - lead, 16 - lead)


@pytest.mark.parametrize("speed", [0, 2, 8])
def test_a_moving_camera_is_no_cut(speed):
    assert find_cuts(scene(3, 20, speed)) == ()


def test_noise_and_fades_are_no_cuts():
    rng = np.random.default_rng(4)
    still = scene(5, 16).astype(float)
    noisy = still + rng.normal(0, 20, still.shape)
    fading = still * np.linspace(1, 0, 16)[:, None, None, None]
    for frames in (noisy, fading):
        assert find_cuts(frames.clip(0, 255).astype(np.uint8)) == ()


def test_short_clips_have_what_they_can_have():
    assert find_cuts([]) == () and find_cuts(scene(0, 1)) == ()
    assert find_cuts(np.concatenate([scene(0, 1), scene(1, 1)])) == (1,)


def test_real_scenes_are_told_apart(shared):
    av = pytest.importorskip("av")
    heads = []
    for path in sorted((shared / "data" / "eval").glob("*.mp4"))[:3]:
        with av.open(str(path)) as container:
            pictures = [next(container.decode(video=0)) for _ in range(5)]
        heads.append(
            [p.reformat(width=160, height=96).to_ndarray(format="rgb24") for p in pictures]
        )
    assert find_cuts([frame for head in heads for frame in head]) == (5, 10)
