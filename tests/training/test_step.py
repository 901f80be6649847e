"""One step: trainees in order, micro-batches, optimizers. Stages here are a few numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from skipsr_jax.data.batch import Batch
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.packing import Packing
from skipsr_jax.data.sample import Recipe
from skipsr_jax.parallel.mesh import make_mesh, pack_sharding, pack_shards
from skipsr_jax.training.optimizer import transformation
from skipsr_jax.training.settings import Optimizer
from skipsr_jax.training.stage import Stage, Trainee
from skipsr_jax.training.step import (
    fresh_state,
    make_next_phase,
    make_step,
    micro_batches,
)

PLAIN = Optimizer(0.1, kind="rmsprop", b1=0.0, clip_norm=0.0, ema_decay=0.5)


def stage_of(init, loss, samples=1, **others):
    shape = ClipShape(16, 1, 16, 16)
    recipe = Recipe(shape, None, packing=Packing(samples=samples))
    return Stage(lambda key: init, loss, {}, frozenset(), recipe, {}, **others)


def two_trainees(first_loss=lambda p: jnp.square(p["first"]["w"] - p["second"]["w"])):
    """Two trainees with one number each; the second one's loss has the first one's update."""

    def second_loss(params, frozen, batch, key):
        return jnp.square(params["second"]["w"] - 3 * params["first"]["w"]), {"noise": draw(key)}

    def draw(key):
        return jax.random.uniform(key)

    trainees = (
        Trainee("first", ("first",), lambda p, f, b, k: (first_loss(p), {"own": draw(k)}), 0.5),
        Trainee("second", ("second",), second_loss),
    )
    init = {"first": {"w": jnp.array(2.0)}, "second": {"w": jnp.array(1.0)}}
    return stage_of(init, second_loss, trainees=trainees, auxiliary=frozenset({"first"}))


def test_trainees_update_their_own_params_and_get_the_updates_before_theirs():
    stage = two_trainees()
    state = fresh_state(stage, PLAIN, jax.random.key(0))
    batch = Batch(hr=(np.zeros((1, 1)),))
    step = jax.jit(make_step(stage, PLAIN, 0))
    state, seen = step(state, {}, batch, np.float32(0.1))
    # The first step of rmsprop is the sign of the gradient: 0.1 * 0.5 down for the first one.
    assert state["params"]["first"]["w"] == pytest.approx(1.95)
    assert state["params"]["second"]["w"] == pytest.approx(1.1)
    assert seen["loss_first"] == pytest.approx(1.0)
    assert seen["grad_norm_first"] == pytest.approx(2)
    assert seen["loss"] == seen["loss_second"] == pytest.approx((1 - 3 * 1.95) ** 2)  # updated
    assert seen["grad_norm"] == seen["grad_norm_second"] == pytest.approx(2 * (3 * 1.95 - 1))
    assert seen["own"] != seen["noise"]  # each draws its own random numbers
    assert state["ema"].keys() == {"second"} and state["opt_state"].keys() == {"first", "second"}


@pytest.mark.parametrize("bad", ["first", "second"])
def test_neither_a_trainee_that_is_not_finite_is_updated_nor_those_after_it(bad):
    stage = two_trainees(lambda p: jnp.square(p["first"]["w"]))
    start = fresh_state(stage, PLAIN, jax.random.key(0))
    start["params"][bad]["w"] = jnp.array(jnp.inf)
    step = jax.jit(make_step(stage, PLAIN, 0))
    state, seen = step(start, {}, Batch(hr=(np.zeros((1, 1)),)), np.float32(0.1))
    assert seen["nonfinite"] == 1 and state["step"] == 1
    assert seen["loss_first"] == (np.inf if bad == "first" else 4.0)
    if bad == "second":
        assert state["params"]["first"]["w"] == pytest.approx(1.95)
    for name in ("first", "second") if bad == "first" else ("second",):
        for part in ("params", "opt_state"):
            before, after = start[part][name], state[part][name]
            assert jax.tree.all(jax.tree.map(np.array_equal, before, after))
    assert jax.tree.all(jax.tree.map(np.array_equal, start["ema"], state["ema"]))


def test_a_new_phase_lies_in_the_memory_of_the_old_one():
    stage = stage_of({"model": {"w": jnp.arange(4.0)}}, lambda *_: (0.0, {}))
    state = fresh_state(stage, PLAIN, jax.random.key(0))
    state["ema"]["model"]["w"] = jnp.full(4, 7.0)
    memory = make_next_phase(stage, PLAIN).lower(state).compile().memory_analysis()
    numbers = sum(x.nbytes for x in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes == numbers > 0
    before = jax.tree.leaves(state)
    after = make_next_phase(stage, PLAIN)(state)
    assert all(array.is_deleted() for array in before)
    np.testing.assert_array_equal(after["params"]["model"]["w"], np.full(4, 7.0))


def packed_batch(samples, packs_):
    """``hr`` and ``mask`` once a sample, ``plan`` and ``negative`` once a pack."""
    rng = np.random.default_rng(0)
    return Batch(
        hr=(rng.normal(size=(samples * packs_, 3)).astype(np.float32),),
        mask=(np.arange(samples * packs_),),
        plan={"sample": np.repeat(np.arange(packs_), 2).reshape(packs_, 2)},
        negative=np.arange(samples * packs_).reshape(packs_, samples),
    )


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_hold_whole_packs_once(parts):
    batch = packed_batch(3, 8)
    cut = micro_batches(jax.tree.map(jnp.asarray, batch), parts, 3)
    assert cut.hr[0].shape == (parts, 24 // parts, 3)
    assert cut.negative.shape == (parts, 8 // parts, 3)
    for i in range(parts):
        np.testing.assert_array_equal(cut.mask[0][i], cut.negative[i].ravel())
        np.testing.assert_array_equal(cut.plan["sample"][i][:, 0], cut.mask[0][i][::3] // 3)
        np.testing.assert_array_equal(cut.hr[0][i], batch.hr[0][cut.mask[0][i]])
    assert sorted(np.ravel(cut.mask[0])) == list(range(24))


def test_micro_batches_stay_where_their_packs_are():
    """No device sends samples to another: the program has no collective."""
    mesh = make_mesh(4, 2, -1)
    batch = Batch(hr=(np.zeros((3 * 16, 4), np.float32),), negative=np.zeros((16, 3), bool))
    with jax.set_mesh(mesh):
        placed = jax.device_put(batch, pack_sharding(mesh))
        cut = jax.jit(lambda b: micro_batches(b, 2, 3))
        out = cut(placed)
        program = cut.lower(placed).compile().as_text()
    assert pack_shards(mesh) == 8
    assert out.hr[0].addressable_shards[0].data.shape == (2, 3, 4)
    assert "all-to-all" not in program and "all-gather" not in program
    assert "collective-permute" not in program


def test_accumulated_gradients_are_those_of_the_whole_batch_on_a_mesh():
    def loss(params, frozen, batch, key):
        error = jnp.tanh(batch.hr[0] @ params["net"]["kernel"]) - batch.mask[0][:, None] * 0.01
        first = jnp.take(params["net"]["kernel"][0], batch.plan["sample"] % 4)
        value = jnp.square(error).mean() + jnp.square(first).mean()
        return value, {"error": value}

    rng = np.random.default_rng(1)
    init = {"net": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}}
    stage = stage_of(init, loss, samples=2)
    mesh = make_mesh(2, 4, -1)
    results = []
    with jax.set_mesh(mesh):
        batch = jax.device_put(packed_batch(2, 16), pack_sharding(mesh))
        for accumulate in (1, 2):
            optimizer = Optimizer(0.1, accumulate=accumulate)
            state = fresh_state(stage, optimizer, jax.random.key(0))
            step = jax.jit(make_step(stage, optimizer, 0))
            for _ in range(3):
                state, seen = step(state, {}, batch, np.float32(0.1))
            results.append((state["params"]["net"]["kernel"], seen["error"], seen["grad_norm"]))
    for whole, accumulated in zip(*results, strict=True):
        np.testing.assert_allclose(whole, accumulated, rtol=1e-5, atol=1e-6)


def test_micro_batches_draw_different_random_numbers():
    def loss(params, frozen, batch, key):
        return params["w"] * jax.random.normal(key), {}

    stage = stage_of({"w": jnp.array(1.0)}, loss)
    norms, batch, rate = [], Batch(hr=(jnp.zeros((2, 1)),)), jnp.asarray(0.1)
    for accumulate in (1, 2):
        optimizer = Optimizer(0.1, accumulate=accumulate)
        state = fresh_state(stage, optimizer, jax.random.key(0))
        seen = make_step(stage, optimizer, 0)(state, {}, batch, rate)[1]
        norms.append(float(seen["grad_norm"]))
    key = jax.random.fold_in(jax.random.key(0), 0)
    draws = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(2)]
    assert norms == pytest.approx([abs(float(jax.random.normal(key))), abs(sum(draws)) / 2])


def test_rmsprop_is_adam_without_a_first_moment():
    adam = transformation(Optimizer(0.1, b1=0.0, b2=0.9))
    rms = transformation(Optimizer(0.1, kind="rmsprop", b1=0.0, b2=0.9))
    params = {"kernel": jnp.ones((2, 3))}
    states = [adam.init(params), rms.init(params)]
    for seed in range(3):
        grads = {"kernel": jax.random.normal(jax.random.key(seed), (2, 3)) * 1e-3}
        a, states[0] = adam.update(grads, states[0], params)
        b, states[1] = rms.update(grads, states[1], params)
        np.testing.assert_allclose(a["kernel"], b["kernel"], rtol=1e-5)
    sizes = [sum(x.size for x in jax.tree.leaves(state)) for state in states]
    assert sizes[0] - sizes[1] == 6  # one moment of two


def test_clipping_can_be_off():
    grads = {"kernel": jnp.full((2,), 100.0)}
    for clip, scale in ((0.0, 1.0), (1.0, 1 / optax.tree.norm(grads))):
        direction = transformation(Optimizer(0.1, kind="rmsprop", b1=0.0, clip_norm=clip))
        _, state = direction.update(grads, direction.init(grads), grads)
        nu = optax.tree.get(state, "nu")["kernel"]
        np.testing.assert_allclose(nu, 0.01 * (100.0 * scale) ** 2, rtol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"kind": "rmsprop"}, {"accumulate": 0}, {"clip_norm": -1.0}], ids=str
)
def test_optimizer_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"(b1|accumulate|clip_norm) is .*: it must be"):
        Optimizer(0.1, **wrong)
