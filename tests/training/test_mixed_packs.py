"""Clips and pictures of several shapes in one sequence: each learns as if it were alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import DIT_CONFIG, QUICK, random_autoencoder, write_pictures

from skipsr_jax.data.batch import Batch
from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.tokens.plan import build_plan
from skipsr_jax.training import packed
from skipsr_jax.training.held_out import HeldOutQuality
from skipsr_jax.training.panels import Panels
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stages import adversarial, distill, predictor, sr
from skipsr_jax.training.step import fresh_state, make_evaluation, make_step
from skipsr_jax.training.transformer import abstract_dit

PACK = ((1, 5, 32, 48), (2, 1, 48, 32))
"""A clip and two pictures in each sequence."""
GRIDS = [(2, 2, 3), (1, 3, 2), (1, 3, 2)]
LENGTHS = [3, 2, 3]
"""Text tokens of each sample: the second one takes the negative text."""


def settings_for(stage, loss, root=".", steps=20, accumulate=1, **data):
    given = {"batch": 2, "frames": 5, "crop": (32, 48), "pack": PACK, "pan_share": 1.0}
    data = Data(root=(str(root),), eval_root=(str(root),), **(given | data))
    data = dataclasses.replace(data, eval_frames=5, eval_crop=(32, 48))
    optimizer = Optimizer(1e-3, warmup_steps=1, accumulate=accumulate)
    return Settings(stage, data, optimizer, Loop(steps), loss)


TEXTS = {"text_lengths": (3, 2), "dense_share": 0.0}
STAGES = {
    "sr": (sr, sr.SrLoss(pixel_weight=0.0, shift=True, condition_noise=0.1, **TEXTS)),
    "distill": (
        distill,
        distill.DistillLoss(schedule=((2, 10), (1, 10)), guidance=2.0, **TEXTS),
    ),
    "adversarial": (
        adversarial,
        adversarial.AdversarialLoss(depths=(2,), **TEXTS),
    ),
}


def stage_for(name, root=".", **others):
    module, loss = STAGES[name]
    settings = settings_for(name, loss, root, **others)
    return settings, module.make(settings, DIT_CONFIG, random_autoencoder())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def drawn():
    """All that one step draws for a pack of the three samples, and their masks."""
    rng = np.random.default_rng(0)
    shapes = [(1, 2, 4, 6, 16), (2, 1, 6, 4, 16)]

    def normal():
        return tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)

    return {
        "masks": [rng.random(grid) < 0.6 for grid in GRIDS],
        "negative": np.array([[False, True, False]]),
        "clean": normal(), "low": normal(), "end": normal(), "conditions": normal(),
        "timestep": jnp.array([[1000.0, 300.0, 800.0]]),
        "has_condition": jnp.array([[True, True, False]]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def run():
    """What one step says of the given samples, with random parameters."""
    dit, rng = abstract_dit(DIT_CONFIG, jnp.float32), np.random.default_rng(1)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), to_dict(dit))
    text = {
        name: jnp.asarray(rng.normal(size=(length, 16)), jnp.float32)
        for name, length in (("positive", 3), ("negative", 2))
    }

    @jax.jit
    def step(params, batch, end, conditions, timestep, has_condition):
        found = sr.matching_loss(
            bind(dit, params), text, batch, end, conditions, timestep, has_condition
        )
        return found[0], found[2]

    def of(drawn, samples=slice(None)):
        chosen = range(3)[samples]
        masks = [drawn["masks"][i] for i in chosen]
        plan = build_plan(masks, [LENGTHS[i] for i in chosen], text_slots=3)
        # The first shape has sample 0, the second one samples 1 and 2.
        rows = [[i for i in chosen if i == 0], [i - 1 for i in chosen if i > 0]]
        latents = {
            name: tuple(x[np.array(r)] for x, r in zip(drawn[name], rows, strict=True) if r)
            for name in ("clean", "low", "end", "conditions")
        }
        per_sample = {
            name: drawn[name][:, samples] for name in ("negative", "timestep", "has_condition")
        }
        batch = Batch(plan=plan, negative=per_sample["negative"], hr_latents=latents["clean"])
        rest = (per_sample["timestep"], per_sample["has_condition"])
        loss, x0 = step(params, batch, latents["end"], latents["conditions"], *rest)
        return float(loss), x0, sum(int(mask.sum()) for mask in masks)

    return of


def test_the_loss_of_a_pack_is_the_mean_over_the_tokens_of_its_samples_alone(run, drawn):
    loss, x0, tokens = run(drawn)
    alone = [run(drawn, slice(i, i + 1)) for i in range(3)]
    assert tokens == sum(count for _, _, count in alone)
    weighted = sum(value * count for value, _, count in alone) / tokens
    assert loss == pytest.approx(weighted, rel=1e-5)
    assert len({round(value, 3) for value, _, _ in alone}) == 3  # they are not all alike
    np.testing.assert_allclose(x0[0], alone[0][1][0], atol=1e-4)
    pictures = jnp.concatenate([alone[1][1][0], alone[2][1][0]])
    np.testing.assert_allclose(x0[1], pictures, atol=1e-4)


def test_a_sample_does_not_see_its_neighbours(run, drawn):
    _, (clip, pictures), _ = run(drawn)
    names = ("clean", "low", "end", "conditions")
    other = drawn | {name: (drawn[name][0] + 3.0, drawn[name][1]) for name in names}
    _, (changed, same), _ = run(other)
    np.testing.assert_array_equal(same, pictures)
    assert np.abs(changed - clip).max() > 0.1
    other = drawn | {name: (drawn[name][0], drawn[name][1].at[0].add(3.0)) for name in names}
    _, (same, (changed, also_same)), _ = run(other)
    np.testing.assert_array_equal(same, clip)
    np.testing.assert_array_equal(also_same, pictures[1])
    assert np.abs(changed - pictures[0]).max() > 0.1


def test_what_each_sample_has_comes_back_to_its_shape():
    latents = tuple(jnp.zeros((4 * n, 1, 4, 4, 16)) for n in (1, 2))
    per_shape = [jnp.arange(4), 10 + jnp.arange(8)]
    together = packed.by_pack(per_shape, 4)
    np.testing.assert_array_equal(together[1], [1, 12, 13])
    for back, want in zip(packed.by_shape(together, latents), per_shape, strict=True):
        np.testing.assert_array_equal(back, want)


@pytest.mark.parametrize(
    "name",
    ["adversarial", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sr", "distill"))],
)
def test_every_stage_takes_mixed_packs(name, root):
    """Traced, not run: shapes fit all the way from bytes to the new parameters."""
    settings, stage = stage_for(name, root, accumulate=2)
    assert stage.samples_per_pack == 3
    batch = batches(find_sources(settings.data.root), stage.recipe)[0]
    assert [x.shape[:4] for x in batch.hr] == [(2, 5, 32, 48), (4, 1, 48, 32)]
    state = jax.eval_shape(lambda: fresh_state(stage, settings.optimizer, jax.random.key(0)))
    step = make_step(stage, settings.optimizer, 0)
    new, metrics = jax.eval_shape(step, state, stage.frozen, batch, np.float32(1e-3))
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert metrics["loss"].shape == () and stage.flops(batch) > 0


def test_pictures_have_their_own_noise_in_a_mixed_pack(drawn):
    batch = Batch(hr_latents=drawn["clean"], negative=drawn["negative"])
    numbers = adversarial._by_kind(batch, 0.01, 0.1)
    np.testing.assert_allclose(numbers, [[0.1, 0.01, 0.01]])
    plan = build_plan(drawn["masks"], LENGTHS)
    of_tokens = np.asarray(packed.of_tokens(numbers, jax.device_put(plan)))[plan.valid]
    counts = [int(mask.sum()) for mask in drawn["masks"]]
    np.testing.assert_allclose(of_tokens, np.repeat([0.1, 0.01, 0.01], counts))


def test_settings_that_say_different_things_are_refused(root):
    loss = dataclasses.replace(STAGES["sr"][1], samples_per_pack=2)
    with pytest.raises(UserError, match=r"set loss\.samples_per_pack to 1 and data\.image_share"):
        sr.make(settings_for("sr", loss, root), DIT_CONFIG, random_autoencoder())
    with pytest.raises(UserError, match=r"data\.image_share to 0"):
        stage_for("sr", root, image_share=0.5)
    settings = settings_for("predictor", predictor.PredictorLoss(space="pixels"), root)
    with pytest.raises(UserError, match=r"makes no sequences of tokens: set data\.pack to \(\)"):
        predictor.make(settings)
    for pack in (((1, 4, 32, 32),), ((0, 1, 32, 32),), ((1, 1, 32, 40),)):
        with pytest.raises(ValueError, match="pack is"):
            settings_for("sr", STAGES["sr"][1], root, pack=pack)


@pytest.mark.slow
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_learns_a_mixed_batch_and_shows_it(name, root):
    module, loss = STAGES[name]
    if name != "distill":
        loss = dataclasses.replace(loss, pixel_weight=1.0, pixel_samples=1)
    settings = settings_for(name, loss, root)
    stage = module.make(settings, DIT_CONFIG, random_autoencoder())
    batch = batches(find_sources(settings.data.root), stage.recipe)[0]

    def start(key):
        state = fresh_state(stage, settings.optimizer, key)
        return state | {"params": stage.begin(state["params"])}

    state = jax.jit(start, compiler_options=QUICK)(jax.random.key(0))
    step = jax.jit(make_step(stage, settings.optimizer, 0), compiler_options=QUICK)
    seen = []
    for _ in range(20):
        state, metrics = step(state, stage.frozen, batch, np.float32(2e-3))
        seen.append(jax.device_get(metrics))
    assert all(m["nonfinite"] == 0 for m in seen)
    losses = [float(m["loss"]) for m in seen]
    assert np.mean(losses[-5:]) < np.mean(losses[:2])
    if name != "sr":
        return
    evaluate = jax.jit(make_evaluation(stage, 0), compiler_options=QUICK)
    assert np.isfinite(evaluate(state["params"], stage.frozen, batch)["loss"])
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    rows = Panels(stage, 0, mesh)(state["params"], stage.frozen, batch)
    assert [row.shape for row in rows] == [(32, 240, 3)] * 2 + [(48, 160, 3)] * 4
    found = HeldOutQuality(stage, settings, mesh, (0, 1))(state["params"], stage.frozen)
    assert found["quality/pictures/psnr_skipped"] > 10
