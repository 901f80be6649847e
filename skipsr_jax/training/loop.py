"""The training loop of every stage: restore, step, log, save, stop.

A run starts from the workdir's own last complete checkpoint, else from ``init_from``, else from
fresh parameters. It stops after the last step, at the time limit, or on SIGTERM, each time with a
saved checkpoint; the same command again continues from there.

Invariant: step i takes batch i // data.echo and random key i, so a resumed run repeats an
uninterrupted one (exactly, unless the learning rate is driven by the clock).
"""

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from tqdm import tqdm

from skipsr_jax.checkpoints import store, train_state
from skipsr_jax.config import to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.data.dataset import batches, iterate
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import Params
from skipsr_jax.parallel.mesh import make_mesh, pack_hosts
from skipsr_jax.training.batch_memory import check_batch_fits
from skipsr_jax.training.goodput import Goodput
from skipsr_jax.training.held_out import HeldOutLoss, HeldOutQuality
from skipsr_jax.training.initial_state import frozen_on, initial_state, restored
from skipsr_jax.training.mesh_checks import fit_to_mesh
from skipsr_jax.training.metrics import Board, MetricWriter, mean_by_kind
from skipsr_jax.training.optimizer import learning_rate
from skipsr_jax.training.panels import Panels
from skipsr_jax.training.profile import ProfileWindow
from skipsr_jax.training.remat import Step, fitting_step
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Metrics, Stage
from skipsr_jax.training.step import State, make_next_phase, make_step, on_devices
from skipsr_jax.training.stopping import Clock, Preemption
from skipsr_jax.training.throughput import Throughput
from skipsr_jax.training.wandb_writer import WandbWriter
from skipsr_jax.training.workdir import claimed, set_aside_incomplete

FIRST_STEPS = (1, 2, 5, 10, 20, 50)
"""After which steps of a start metrics are logged, too."""
STEPS_IN_FLIGHT = 3
"""The host runs at most so many steps ahead of the devices."""

Hook = Callable[[int, Params, Batch], None]
"""Evaluates or draws something: (finished steps, averaged parameters, batch of the last step)."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run has from its first step to its last.

    Attributes:
      settings: of the run.
      stage: fitted to the mesh.
      folder: the workdir.
      mesh: all devices of all hosts.
      manager: of the workdir's checkpoints.
      preemption: whether SIGTERM came.
      profile: the steps to trace.
      goodput: what the wall time goes into.
    """

    settings: Settings
    stage: Stage
    folder: store.epath.Path
    mesh: Mesh
    manager: ocp.CheckpointManager
    preemption: Preemption
    profile: ProfileWindow
    goodput: Goodput


class StepRunner:
    """The compiled step, the state that it updates, and the metrics of the steps under way.

    Attributes:
      state: after the last step.
      frozen: parameters that are not trained, on the devices.
      throughput: counts the steps since the last log line.
    """

    def __init__(self, run: Run, state: State):
        stage, settings = run.stage, run.settings
        self.state, self.frozen = state, frozen_on(stage, run.mesh)
        self.throughput = Throughput(stage, pack_hosts(run.mesh)[1])
        self._run = run
        shardings = jax.tree.map(lambda x: x.sharding, state)
        self._next_phase = make_next_phase(stage, settings.optimizer, shardings)
        self._steps: dict[str, Step] = {}
        self._pending: list[tuple[str, Metrics]] = []
        self._in_flight: collections.deque[Metrics] = collections.deque()

    def _make_step(self) -> Step:
        settings = self._run.settings
        return make_step(self._run.stage, settings.optimizer, settings.seed)

    def start_phase(self) -> None:
        """Continues from the averages of the phase before, with a new optimizer state."""
        self.state = self._next_phase(self.state)

    def step(self, number: int, batch: Batch, rate: float, waited: float) -> Metrics:
        """Starts step ``number``, and returns its metrics, which may not be computed yet.

        ``batch`` is on this host; ``rate`` is the learning rate; ``waited`` is how many seconds the
        devices waited for the batch.

        Raises UserError when the step does not fit the memory.
        """
        profile = self._run.profile
        profile.before(number)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            on_mesh = on_devices(batch, self._run.mesh)
            inputs = (self.state, self.frozen, on_mesh, np.float32(rate))
            if batch.kind in self._steps:
                self.state, metrics = self._steps[batch.kind](*inputs)
                self.throughput.add(batch)
            else:
                compiling = self._run.goodput.during("compile")
                with self.throughput.paused(self.state), compiling:
                    step = fitting_step(self._make_step, self._run.settings.remat, inputs)
                    self._steps[batch.kind] = step
                    self.state, metrics = jax.block_until_ready(step(*inputs))
        profile.after(number, metrics)
        self._pending.append((batch.kind, metrics | {"data_seconds": waited}))
        self._in_flight.append(metrics)
        if len(self._in_flight) > STEPS_IN_FLIGHT:
            jax.block_until_ready(self._in_flight.popleft())
        return metrics

    def means(self, done: int) -> dict[str, float]:
        """Mean metrics and throughput of the steps since the last call; ``done``: finished steps.

        Raises UserError as ``check_finite``.
        """
        self.check_finite(done)
        means, self._pending = mean_by_kind(self._pending), []
        del means["nonfinite"]
        return means | self.throughput.report() | self._run.goodput.report()

    def check_finite(self, done: int) -> None:
        """Raises UserError when a loss or a gradient since the last call of ``means`` was not
        finite; it names the last good checkpoint. ``done``: finished steps.
        """
        if not any(jax.device_get([metrics["nonfinite"] for _, metrics in self._pending])):
            return
        manager = self._run.manager
        train_state.finish_saving(manager)
        good = manager.latest_step()
        raise UserError(
            f"loss or gradient is not finite between steps {done - len(self._pending)} and {done}; "
            f"last good checkpoint: " + ("none" if good is None else f"{manager.directory}/{good}")
        )


def _boards(run: Run) -> list[Board]:
    """What metrics are written to beside TensorBoard."""
    project = run.settings.loop.wandb
    if not project or jax.process_index() != 0:
        return []
    return [WandbWriter(project, str(run.folder), to_json(run.settings))]


def _hooks(run: Run, writer: MetricWriter, frozen: Params) -> list[tuple[int, Hook]]:
    """(steps between two calls, what to call) for evaluation and pictures."""
    settings, stage, mesh = run.settings, run.stage, run.mesh
    loop, held_out, hooks = settings.loop, settings.data.eval_root, []
    if (loop.quality_every or loop.panel_every) and stage.preview is None:
        raise UserError(
            f"stage {settings.stage} has no pictures: set loop.quality_every and panel_every to 0"
        )

    def measured(measure: HeldOutLoss | HeldOutQuality) -> Hook:
        return lambda done, params, batch: writer.write(done, measure(params, frozen))

    if loop.eval_every:
        loss = HeldOutLoss(stage, settings, mesh, pack_hosts(mesh))
        hooks.append((loop.eval_every, measured(loss)))
    if loop.quality_every:
        quality = HeldOutQuality(stage, settings, mesh, pack_hosts(mesh))
        hooks.append((loop.quality_every, measured(quality)))
    if loop.panel_every:
        fixed = None
        if held_out:
            fixed = batches(
                find_sources(held_out, settings.data.strict), stage.recipe, pack_hosts(mesh)
            )[0]
        panels = Panels(stage, settings.seed, mesh, fixed)
        hooks.append((loop.panel_every, lambda done, params, batch: writer.write_pictures(
            done, panels(params, frozen, batch)
        )))  # fmt: skip
    return hooks


def train(
    settings: Settings, stage: Stage, workdir: str, profile: ProfileWindow | None = None
) -> int:
    """Runs the stage in ``workdir`` until it stops, and returns the number of finished steps.

    Raises UserError when data, mesh or checkpoints do not fit, when the workdir holds another run
    or is in use by one, when a checkpoint cannot be saved, and when a loss is not finite; the last
    good checkpoint is named then.
    """
    started = time.monotonic()
    mesh = make_mesh(**dataclasses.asdict(settings.mesh))
    check_batch_fits(settings, mesh)
    stage = fit_to_mesh(stage, settings, mesh)
    dataset = batches(
        find_sources(settings.data.root, settings.data.strict), stage.recipe, pack_hosts(mesh)
    )
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(claimed(workdir, settings))
        set_aside_incomplete(folder / "checkpoints")
        preemption = stack.enter_context(contextlib.closing(Preemption()))
        keep = settings.loop.keep
        manager = train_state.open_manager(folder / "checkpoints", max_to_keep=keep)
        stack.callback(train_state.close_quietly, manager)
        profile = profile or ProfileWindow("", folder)
        stack.callback(profile.close)
        stack.enter_context(jax.set_mesh(mesh))
        state, before = restored(manager, initial_state(stage, settings, mesh))
        goodput = Goodput(folder, started, before.by_kind)
        run = Run(settings, stage, folder, mesh, manager, preemption, profile, goodput)
        runner, clock = StepRunner(run, state), Clock(before.seconds, started)
        first = int(state["step"])
        del state  # donated by the first step
        data = settings.data
        iterator = iterate(dataset, data.workers, start=first, echo=data.echo)
        stack.callback(iterator.close)
        done = _train_steps(run, runner, iterator, clock, first)
        train_state.finish_saving(manager)
        goodput.note()
        return done


def _train_steps(
    run: Run, runner: StepRunner, iterator: Iterator[Batch], clock: Clock, first: int
) -> int:
    """The steps from ``first`` on, with all that is logged, saved and evaluated on the way.

    Returns the number of finished steps.
    """
    settings, stage, loop = run.settings, run.stage, run.settings.loop

    def save(steps: int) -> None:
        runner.check_finite(steps)  # what is saved is named as good later
        spent = {"elapsed_seconds": clock.elapsed(), "goodput_seconds": run.goodput.seconds()}
        config = stage.config | spent | {"settings": to_json(settings)}
        train_state.save_step(run.manager, steps, runner.state, config, force=True)

    with contextlib.ExitStack() as stack:
        writer = MetricWriter(str(run.folder), first, _boards(run))
        stack.enter_context(contextlib.closing(writer))
        quiet = None if jax.process_index() == 0 else True  # None: on a terminal only
        progress = tqdm(total=loop.steps, initial=first, disable=quiet, desc=settings.stage)
        bar = stack.enter_context(contextlib.closing(progress))
        hooks = _hooks(run, writer, runner.frozen)
        done, elapsed, stop = first, clock.elapsed(), False
        run.goodput.enter("steps")
        while done < loop.steps and not stop and not 0 < loop.max_seconds <= elapsed:
            if done in stage.starts[1:]:
                logging.info("phase %d begins at step %d", stage.starts.index(done) + 1, done)
                runner.start_phase()
            began_waiting = time.monotonic()
            with run.goodput.during("data"):
                batch = next(iterator)
            waited = time.monotonic() - began_waiting
            by_clock = elapsed / loop.max_seconds if loop.max_seconds else 0.0
            since, fraction = stage.progress(done, loop.steps)
            rate = learning_rate(settings.optimizer, since, max(fraction, by_clock))
            metrics = runner.step(done, batch, rate, waited)
            done += 1
            run.preemption.has_work = True
            bar.update()

            elapsed, preempted = clock.elapsed(), run.preemption.reached()
            finished = done == loop.steps or 0 < loop.max_seconds <= elapsed
            stop = finished or preempted
            if done % loop.log_every == 0 or stop or done - first in FIRST_STEPS:
                writer.write(done, runner.means(done) | {"learning_rate": rate})
                run.goodput.note()
            saving = done % loop.save_every == 0 or stop
            due = [hook for every, hook in hooks if done % every == 0 or finished]
            if saving or due:
                with runner.throughput.paused(metrics):
                    if saving:
                        with run.goodput.during("save"):
                            save(done)
                    with run.goodput.during("evaluation"):
                        for hook in due:
                            hook(done, runner.state["params"] | runner.state["ema"], batch)
        run.goodput.enter("save")  # the last save is waited for
        if stop and not finished:
            logging.info("SIGTERM: saved after step %d; the same command goes on from there", done)
    return done
