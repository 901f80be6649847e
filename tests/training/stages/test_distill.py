"""Progressive distillation at the smallest size: 4 -> 2 -> 1 steps on one fixed batch."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import DIT_CONFIG, QUICK, VAE_CONFIG, write_pictures

from skipsr_jax.checkpoints import train_state
from skipsr_jax.data.batch import Batch
from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import abstract, flatten
from skipsr_jax.models.vae import VAE
from skipsr_jax.training import frozen_vae as frozen
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.stages import distill
from skipsr_jax.training.stages.distill import DistillLoss
from skipsr_jax.training.step import fresh_state, make_evaluation, make_next_phase, make_step

RATE = 5e-4
LOSS = DistillLoss(
    schedule=((2, 8), (1, 8)), guidance=3.0, condition_noise=0.05, text_lengths=(3, 2),
    dense_share=0.0, samples_per_pack=2,
)  # fmt: skip


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def settings_for(loss, root=".", steps=16, **others):
    data = Data(root=(str(root),), batch=2, frames=5, crop=(32, 48), pan_share=1.0)
    optimizer = Optimizer(RATE, warmup_steps=1, ema_decay=0.9)
    return Settings("distill", data, optimizer, Loop(steps), loss, **others)


def autoencoder():
    """What the stage is told of it; ``averages`` stands in for its encoder."""
    return abstract(lambda rngs: VAE(VAE_CONFIG, rngs=rngs)), {"vae": {}}


def averages(vae, params, truth, given, key):
    """Latents of both clips that compile in a moment: means of 8 x 8 pixels of each first frame."""
    both = jnp.stack([truth, given])[:, :, ::4]
    two, samples, frames, height, width, _ = both.shape
    both = both.reshape(two, samples, frames, height // 8, 8, width // 8, 8, 3).mean((4, 6))
    return tuple(jnp.tile(both, 6)[..., :16])


@dataclasses.dataclass
class Run:
    """A stage with its compiled programs, a batch, and the states of one run through all phases."""

    stage: Stage
    batch: Batch
    step: object
    next_phase: object
    states: list

    def advance(self, state):
        """One step as the loop takes it: the state after it, and its metrics."""
        if int(state["step"]) in self.stage.starts[1:]:
            state = self.next_phase(jax.tree.map(jnp.copy, state))
        state, metrics = self.step(state, self.stage.frozen, self.batch, np.float32(RATE))
        return state, jax.device_get(metrics)

    def metrics_of(self, params):
        """What the first step says of other parameters."""
        state = self.states[0] | {"params": params}
        return self.step(state, self.stage.frozen, self.batch, np.float32(0))[1]


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frozen, "encode_pair", averages)
        yield


@pytest.fixture(scope="module")
def run(patch, tmp_path_factory):
    root = write_pictures(tmp_path_factory.mktemp("pictures"))
    settings = settings_for(LOSS, root)
    stage = distill.make(settings, DIT_CONFIG, autoencoder())

    def start(key):
        state = fresh_state(stage, settings.optimizer, key)
        return state | {"params": stage.begin(state["params"])}

    here = jax.devices()[0]  # all on one device, and said so: else the step compiles twice
    stage = dataclasses.replace(stage, frozen=jax.device_put(stage.frozen, here))
    return Run(
        stage=stage,
        batch=jax.device_put(batches(find_sources(settings.data.root), stage.recipe)[0], here),
        step=jax.jit(make_step(stage, settings.optimizer, 0), compiler_options=QUICK),
        next_phase=make_next_phase(stage, settings.optimizer),
        states=[jax.device_put(jax.jit(start, compiler_options=QUICK)(jax.random.key(0)), here)],
    )


@pytest.fixture(scope="module")
def history(run):
    """The metrics of all steps; ``run.states`` are there afterwards."""
    seen = []
    for _ in range(16):
        state, metrics = run.advance(run.states[-1])
        run.states.append(state)
        seen.append(metrics)
    return seen


def test_the_loss_falls_in_each_phase_and_the_average_becomes_the_teacher(run, history):
    for seen, phase, student in ((history[:8], 1, 2), (history[8:], 2, 1)):
        assert {float(m["phase"]) for m in seen} == {phase}
        assert {float(m["student_steps"]) for m in seen} == {student}
        assert {float(m["teacher_steps"]) for m in seen} == {2 * student}
        assert all(m["nonfinite"] == 0 for m in seen)
        losses = [float(m["loss"]) for m in seen]
        assert np.mean(losses[-3:]) < 0.75 * losses[0], losses
    start, middle, end = run.states[0], run.states[8], run.states[-1]
    assert same(start["params"]["teacher"], middle["params"]["teacher"])
    # Between the phases: teacher, student and average are the last average; moments are zero.
    begun = run.next_phase(jax.tree.map(jnp.copy, middle))
    average = middle["ema"]["dit"]
    assert same(average, begun["params"]["teacher"])
    assert same(average, begun["params"]["dit"]) and same(average, begun["ema"]["dit"])
    assert all(not np.any(x) for x in jax.tree.leaves(begun["opt_state"]))
    assert begun["step"] == 8 and end["step"] == 16
    assert "teacher" not in end["ema"]
    assert same(end["params"]["text"], start["params"]["text"])


@pytest.mark.parametrize("stop", [5, 8, 10])
def test_a_run_stopped_within_a_phase_or_between_two_goes_on_exactly(run, history, stop, tmp_path):
    """8: the last step of a phase was saved, the next phase has not begun."""
    with train_state.open_manager(tmp_path / "checkpoints") as manager:
        train_state.save_step(manager, stop, run.states[stop], {})
        manager.wait_until_finished()
        state = train_state.restore_step(manager, jax.tree.map(jnp.zeros_like, run.states[0]))
    for step in range(stop, stop + 4):
        state, metrics = run.advance(state)
        assert metrics["loss"] == history[step]["loss"]
    assert same(state, run.states[stop + 4])


def test_a_student_that_equals_a_teacher_with_straight_paths_has_no_loss(run):
    params = run.states[0]["params"]

    def constant(dit):
        last = {name: 0 * x for name, x in dit["vid_out"].items()}
        return dit | {"vid_out": last | {"bias": 0.3 + last["bias"]}}

    straight = params | {name: constant(params[name]) for name in ("dit", "teacher")}
    metrics = run.metrics_of(straight)
    assert metrics["loss"] < 1e-10 and metrics["skip_percent"] > 5
    assert run.metrics_of(straight | {"dit": params["dit"]})["loss"] > 1e-2


def test_guidance_acts_in_the_first_phase_only(run):
    params = run.states[0]["params"]
    other = params | {"text": params["text"] | {"negative": 0 * params["text"]["negative"]}}
    for phase, equal in ((0, False), (1, True)):
        first, second = (
            run.metrics_of(each | {"phase": 0 * params["phase"] + phase})["loss"]
            for each in (params, other)
        )
        assert (first == second) == equal


@pytest.mark.parametrize(
    "schedule",
    [(), ((3, 5), (1, 5)), ((1, 5), (2, 5)), ((2, 5), (1, 0)), ((0, 5),), ((2, 5), (2, 5))],
)
def test_a_schedule_that_does_not_halve_or_has_empty_phases_is_refused(schedule):
    with pytest.raises(ValueError, match=re.escape(f"schedule is {schedule!r}")) as error:
        DistillLoss(schedule=schedule)
    assert "\n" not in str(error.value)


def test_a_run_that_does_not_end_with_its_schedule_is_refused():
    with pytest.raises(UserError, match=r"16 optimizer steps in all, but loop\.steps is 30"):
        distill.make(settings_for(LOSS, steps=30), DIT_CONFIG, autoencoder())


def test_the_teacher_is_kept_in_the_dtype_it_runs_in():
    stage = distill.make(settings_for(LOSS, dtype="bfloat16"), DIT_CONFIG, autoencoder())
    teacher = flatten(jax.eval_shape(stage.init, jax.random.key(0))["teacher"])
    for path, leaf in teacher.items():
        wanted = jnp.float32 if f"dit/{path}" in stage.fixed else jnp.bfloat16
        assert leaf.dtype == wanted, path


@pytest.mark.slow
def test_matching_clean_latents_weighs_velocities_by_the_noise(run):
    loss = dataclasses.replace(LOSS, matching="x0", guidance=1.0, schedule=((4, 16),))
    stage = distill.make(settings_for(loss), DIT_CONFIG, autoencoder())
    assert not stage.recipe.packing.guided
    evaluate = jax.jit(make_evaluation(stage, 0), compiler_options=QUICK)
    metrics = evaluate(run.states[0]["params"], stage.frozen, run.batch)
    # Of two samples one has a share of noise of 1 or 3/4, the other 1/2 or 1/4; squares weigh.
    assert metrics["loss"] == metrics["x0"] and 1 / 16 < metrics["x0"] / metrics["velocity"] < 1
