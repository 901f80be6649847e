"""Training batches: a function of (seed, index), with the masks and plans they claim."""

import contextlib
import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.dataset import batches, iterate
from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.data.degradation.levels import RealWorld
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.oracle import oracle_mask
from skipsr_jax.data.packing import Packing, bucket_of
from skipsr_jax.data.sample import Recipe
from skipsr_jax.errors import UserError
from skipsr_jax.media.resize import area_down, resize
from skipsr_jax.tokens.criterion import TAU, patch_mse


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(5):
        picture = np.full((80, 96, 3), 40 * i, np.uint8)
        picture[:40] = rng.integers(0, 255, (40, 96, 3))  # busy above, flat below
        Image.fromarray(picture).save(root / f"{'abcde'[i]}.png")
    return find_sources([str(root)])


def recipe(**changes):
    shapes = {"video": ClipShape(4, 5, 48, 64), "image": ClipShape(2, 1, 64, 64)}
    values = {"image_share": 0.25, "pan_share": 1.0, "packing": Packing(samples=2, kept_share=0.75)}
    return Recipe(**(shapes | values | changes))


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("workers", [0, 2])
def test_iteration_equals_indexing_and_resumes(sources, workers):
    dataset = batches(sources, recipe())
    iterator = iterate(dataset, workers)
    for index in range(3):
        assert same(next(iterator), dataset[index])
    again = iterate(dataset, workers, start=3)
    assert same(next(again), next(iterator)) and same(next(again), dataset[4])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_each_batch_serves_several_steps_from_any_step_on(sources, workers, start):
    dataset = batches(sources, recipe())
    with contextlib.closing(iterate(dataset, workers, start, echo=3)) as iterator:
        for step in range(start, start + 5):
            assert same(next(iterator), dataset[step // 3])


def test_seeds_and_epochs_differ_and_hosts_share_the_batch(sources):
    assert not same(batches(sources, recipe())[0], batches(sources, recipe(seed=1))[0])
    dataset = batches(sources, recipe())
    assert not same(dataset[0].hr, dataset[5].hr)
    clips = recipe(image_share=0.0)
    for number in (0, 3):
        halves = [batches(sources, clips, hosts=(i, 2))[number].hr[0] for i in (0, 1)]
        assert same(np.concatenate(halves), batches(sources, clips)[number].hr[0])


def test_hosts_see_every_clip_once_an_epoch(tmp_path):
    for grey in range(12):
        picture = Image.fromarray(np.full((16, 16, 3), 20 * grey, np.uint8))
        picture.save(tmp_path / f"{grey}.png")
    shape = ClipShape(6, 1, 16, 16)
    wanted = Recipe(shape, None, pan_share=1.0, masks=False)
    parts = [batches(find_sources([str(tmp_path)]), wanted, (host, 3)) for host in range(3)]
    for epoch in range(2):
        seen = [part[2 * epoch + i].hr[0][:, 0, 0, 0, 0] for part in parts for i in range(2)]
        assert [len(greys) for greys in seen] == [2] * 6
        assert sorted(np.concatenate(seen)) == [20 * grey for grey in range(12)]


def test_pairs_and_masks_follow_their_definitions(sources):
    batch = batches(sources, recipe())[0]
    (hr,), (lr,), (masks,) = batch.hr, batch.lr, batch.mask
    assert hr.shape == (4, 5, 48, 64, 3) and lr.shape == (4, 5, 12, 16, 3)
    for frames, small, mask in zip(hr, lr, masks, strict=True):
        np.testing.assert_array_equal(small, low_quality(frames, 4))
        unit = frames / np.float32(255)
        mse = patch_mse(unit, resize(area_down(unit, 4), (48, 64), "bilinear"))
        np.testing.assert_array_equal(mask, mse > TAU)
    assert 0 < masks.mean() < 1


def test_degradation_changes_the_pair_and_is_a_function_of_the_index(sources):
    plain, real = (batches(sources, recipe(degradation=d)) for d in ("area", RealWorld()))
    same_clip = real[0].hr[0][0]
    assert same(plain[0].hr[0][0], same_clip) and not same(plain[0].lr, real[0].lr)
    assert real[0].lr[0].shape == plain[0].lr[0].shape
    assert same(real[0], batches(sources, recipe(degradation=RealWorld()))[0])
    for frames, small, mask in zip(real[0].hr[0], real[0].lr[0], real[0].mask[0], strict=True):
        np.testing.assert_array_equal(mask, oracle_mask(frames, small=small))
    assert real[0].mask[0].mean() > plain[0].mask[0].mean()


def test_factors_share_batches_or_have_batches_of_their_own(sources):
    factors = ((4.0, 1.0), (2.0, 2.0))
    mixed = batches(sources, recipe(factors=factors, image_share=0.0))
    assert {mixed[i].lr[0].shape[2:4] for i in range(4)} == {mixed[0].hr[0].shape[2:4]}
    alone = batches(sources, recipe(factors=factors, one_size=False, image_share=0.0))
    shapes = [alone[i].lr[0].shape[2:4] for i in range(6)]
    height, width = alone[0].hr[0].shape[2:4]
    assert (
        shapes.count((height // 2, width // 2)) == 4 == 2 * shapes.count((height // 4, width // 4))
    )


def test_soft_samples_are_enlarged_and_their_masks_are_their_own(sources):
    plain = recipe(image_share=0.0, packing=None)
    soft = batches(sources, recipe(image_share=0.0, packing=None, soft_share=1.0))
    steps = [
        np.mean([np.abs(np.diff(data[i].hr[0].astype(int), axis=3)).mean() for i in range(3)])
        for data in (soft, batches(sources, plain))
    ]
    assert steps[0] < 0.9 * steps[1]
    for frames, mask in zip(soft[0].hr[0], soft[0].mask[0], strict=True):
        assert frames.shape == (5, 48, 64, 3)
        np.testing.assert_array_equal(mask, oracle_mask(frames))
    assert same(soft[1], batches(sources, recipe(image_share=0.0, packing=None, soft_share=1.0))[1])


def test_plans_hold_a_share_of_the_mask_within_the_bucket(sources):
    packing = Packing(samples=2, kept_share=0.75, dense_share=0.0, random_drop=0.5)
    batch = batches(sources, recipe(packing=packing))[0]
    plan, tokens = batch.plan, 2 * 3 * 4
    bucket = bucket_of([ClipShape(4, 5, 48, 64)], packing)
    assert plan.patch_index.shape == (2, bucket.tokens) and batch.negative.shape == (2, 2)
    for pack in range(2):
        kept = plan.patch_index[pack][plan.valid[pack]]
        allowed = np.flatnonzero(batch.mask[0][2 * pack : 2 * pack + 2])
        assert set(kept.tolist()) <= set(allowed.tolist())
        for sample in range(2):
            of_sample = (kept // tokens == sample).sum()
            assert 1 <= of_sample <= int(0.75 * tokens)


MIXED = (ClipShape(2, 5, 48, 64), ClipShape(4, 1, 64, 48), ClipShape(4, 1, 64, 48))


def test_clips_and_pictures_of_several_shapes_share_sequences(sources):
    packing = Packing(samples=5, dense_share=0.0, random_drop=0.0, negative_share=0.5)
    wanted = recipe(mixed=MIXED, packing=packing)
    batch = batches(sources, wanted)[0]
    assert [x.shape for x in batch.hr] == [(2, 5, 48, 64, 3), *[(4, 1, 64, 48, 3)] * 2]
    assert [x.shape for x in batch.lr] == [(2, 5, 12, 16, 3), *[(4, 1, 16, 12, 3)] * 2]
    assert not same(batch.hr[1], batch.hr[2])  # shapes alike draw their own samples
    bucket = bucket_of(MIXED, packing)
    assert bucket == bucket_of([dataclasses.replace(x, batch=3 * x.batch) for x in MIXED], packing)
    plan = batch.plan
    assert plan.patch_index.shape == (2, bucket.tokens) and batch.negative.shape == (2, 5)
    assert batch.negative.any() and not batch.negative.all()
    for pack in range(2):  # one clip, two pictures of the one shape, two of the other
        masks = [batch.mask[0][pack]]
        masks += [x[2 * pack + i] for x in batch.mask[1:] for i in range(2)]
        kept = plan.patch_index[pack][plan.valid[pack]]
        patches = np.concatenate([mask.ravel() for mask in masks])
        np.testing.assert_array_equal(np.sort(kept), np.flatnonzero(patches))
        of_sample = np.repeat(np.arange(5), [mask.size for mask in masks])
        np.testing.assert_array_equal(plan.sample[pack][plan.valid[pack]], of_sample[kept])


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_sequences_of_training_have_no_slack_to_assign_windows(shards):
    shapes = [ClipShape(1, 101, 720, 1280)]
    assert bucket_of(shapes, Packing(shards=shards)).tokens == 93_696


def test_mixed_batches_are_the_same_for_any_number_of_hosts_and_workers(sources):
    wanted = recipe(mixed=MIXED, packing=Packing(samples=5, guided=True))
    dataset = batches(sources, wanted)
    halves = [batches(sources, wanted, hosts=(i, 2))[3] for i in (0, 1)]
    together = jax.tree.map(lambda *parts: np.concatenate(parts), *halves)
    assert same(together, dataset[3]) and not same(dataset[3].hr, dataset[4].hr)
    iterator = iterate(dataset, workers=0, start=3)
    assert same(next(iterator), dataset[3]) and same(next(iterator), dataset[4])
    lengths = dataset[3].negative_plan.text_length
    assert (lengths == 1).all() and lengths.shape == (2, 5)
    with pytest.raises(UserError, match=r"data\.pack has pictures, but none of 5 pictures holds"):
        batches(sources, recipe(mixed=(ClipShape(2, 1, 128, 128),), packing=Packing()))


def test_the_mask_is_that_of_the_whole_clip_at_once():
    rng = np.random.default_rng(1)
    frames = rng.integers(100, 130, (9, 32, 32, 3), np.uint8)
    unit = frames / np.float32(255)
    mse = patch_mse(unit, resize(area_down(unit, 4), (32, 32), "bilinear"))
    tau = float(np.median(mse))
    np.testing.assert_array_equal(oracle_mask(frames, 4, tau), mse > tau)
    with pytest.raises(ValueError, match="4k"):
        oracle_mask(frames[:8])


def test_refusals(sources):
    with pytest.raises(UserError, match="none of 0 videos and 5 pictures"):
        batches(sources, recipe(video=ClipShape(4, 5, 128, 128)))
    with pytest.raises(UserError, match="image_share"):
        batches(sources, recipe(image=ClipShape(4, 1, 128, 128)))
    with pytest.raises(UserError, match="3 hosts"):
        batches(sources, recipe(), hosts=(0, 3))
    with pytest.raises(ValueError, match="4k"):
        ClipShape(1, 4, 16, 16)


def test_a_clip_from_a_plain_folder_does_not_cross_a_cut(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [np.repeat(np.repeat(rng.integers(0, 255, (8, 8, 3)), 8, 0), 8, 1) for _ in range(3)]
    for name, lengths in (("few", (7, 7, 7)), ("many", (3, 3, 3))):
        (tmp_path / name).mkdir()
        for number, which in enumerate(np.repeat(range(3), lengths)):
            frame = scenes[which].copy()
            frame[0, 0] = number  # tells frames of a scene apart
            Image.fromarray(frame.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    for source in find_sources([str(tmp_path)]):
        shape = ClipShape(6, 5, 64, 64)
        dataset = batches([source], Recipe(shape, None, pan_share=0.0, masks=False))
        clips = np.concatenate([dataset[i].hr[0] for i in range(4)]).astype(int)
        assert np.abs(np.diff(clips[:, :, 2:], axis=1)).max() == 0  # one scene
        steps = np.abs(np.diff(clips[:, :, 0], axis=1)).max((2, 3))
        assert (steps == 1).all()  # forward by a frame, or back where the scene is too short
