"""The loop that every stage runs in: restore, step, log, save, stop.

Start: the workdir's own last complete checkpoint, else ``init_from``, else fresh parameters. Stop:
after the last step, at the time limit, or on SIGTERM, each time with a saved checkpoint. The same
command again goes on from there.

Invariant: step i sees batch i and random key i, so a resumed run repeats an uninterrupted one
(exactly, unless the learning rate is driven by the clock).
"""

import collections
import contextlib
import logging
import time
from collections.abc import Callable

import jax
import numpy as np
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
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.training.fit import fit_to_mesh
from skipsr_jax.training.held_out import HeldOutLoss, Quality
from skipsr_jax.training.metrics import MetricWriter, mean_by_kind
from skipsr_jax.training.optimizer import learning_rate
from skipsr_jax.training.panels import Panels
from skipsr_jax.training.profile import ProfileWindow
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Metrics, Stage
from skipsr_jax.training.step import State, fresh_state, make_next_phase, make_step, on_devices
from skipsr_jax.training.stopping import Clock, Preemption
from skipsr_jax.training.throughput import Throughput
from skipsr_jax.training.workdir import claim, set_aside_incomplete

STEPS_IN_FLIGHT = 3
"""The host runs at most so many steps ahead of the devices."""

Hook = Callable[[int, Params, Batch], None]
"""(finished steps, averaged parameters, batch of the last step) -> writes something."""


def _initial(stage: Stage, settings: Settings, mesh: Mesh) -> State:
    def make(key):
        return fresh_state(stage, settings.optimizer, key)

    key = jax.random.key(settings.seed)
    places = shardings(jax.eval_shape(make, key), mesh)
    state = jax.jit(make, out_shardings=places)(key)
    if settings.init_from:
        source = store.absolute(settings.init_from)
        logging.info("parameters from %s", source)
        branch = store.best_branch(source)
        for name in ("params", "ema"):
            state[name] |= store.restore_params(
                source, state["ema"], places["ema"], "float32", branch=branch
            )
    begin = jax.jit(stage.begin, out_shardings=places["params"], donate_argnums=0)
    return state | {"params": begin(state["params"])}


def _placed(params: Params, mesh: Mesh) -> Params:
    """Parameters that every host has, over the devices of all: each device reads its part."""
    return jax.tree.map(
        lambda x, place: jax.make_array_from_callback(x.shape, place, np.asarray(x).__getitem__),
        params,
        shardings(params, mesh),
    )


def _hooks(
    stage: Stage, settings: Settings, mesh: Mesh, writer: MetricWriter, frozen: Params
) -> list[tuple[int, Hook]]:
    """What happens every so many steps, beside training."""
    loop, hooks = settings.loop, []
    held_out = settings.data.eval_root
    if (loop.quality_every or loop.panel_every) and stage.preview is None:
        raise UserError(
            f"stage {settings.stage} has no pictures: set loop.quality_every and panel_every to 0"
        )

    def measured(measure: HeldOutLoss | Quality) -> Hook:
        return lambda done, params, batch: writer.write(done, measure(params, frozen))

    if loop.eval_every:
        loss = HeldOutLoss(stage, settings, mesh, pack_hosts(mesh))
        hooks.append((loop.eval_every, measured(loss)))
    if loop.quality_every:
        quality = Quality(stage, settings, mesh, pack_hosts(mesh))
        hooks.append((loop.quality_every, measured(quality)))
    if loop.panel_every:
        shown = None
        if held_out:
            shown = batches(find_sources(held_out), stage.recipe, pack_hosts(mesh))[0]
        panels = Panels(stage, settings.seed, mesh, shown)
        hooks.append((loop.panel_every, lambda done, params, batch: writer.write_pictures(
            done, panels(params, frozen, batch)
        )))  # fmt: skip
    return hooks


def train(
    settings: Settings, stage: Stage, workdir: str, profile: ProfileWindow | None = None
) -> int:
    """Runs the stage in ``workdir`` until it is done, and returns the number of finished steps.

    Raises UserError when data, mesh or checkpoints do not fit, when the workdir holds another run,
    and when a loss is not finite; the last good checkpoint is named then.
    """
    started = time.monotonic()
    mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.seq)
    stage = fit_to_mesh(stage, settings, mesh)
    dataset = batches(find_sources(settings.data.root), stage.recipe, pack_hosts(mesh))
    folder = claim(workdir, settings)
    set_aside_incomplete(folder / "checkpoints")
    profile = profile or ProfileWindow("", folder)

    preemption = Preemption()
    manager = train_state.open_manager(folder / "checkpoints", max_to_keep=settings.loop.keep)
    try:
        with jax.set_mesh(mesh):
            return _run(
                settings, stage, folder, mesh, dataset, manager, preemption, started, profile
            )
    finally:
        profile.close()
        manager.close()
        preemption.close()


def _restored(manager, state: State) -> tuple[State, float]:
    """The last checkpoint's state and the seconds it had taken; ``state`` and 0 without one."""
    last = manager.latest_step()
    if last is None:
        return state, 0.0
    state = train_state.restore_step(manager, state)
    seconds = store.load_config(manager.directory, last)["elapsed_seconds"]
    logging.info("resumed after step %d (%.0f s)", last, seconds)
    return state, seconds


def _finite_means(pending: list[tuple[str, Metrics]], done: int, manager) -> dict[str, float]:
    """The means of the steps since the last log. UserError when one of them was not finite."""
    means = mean_by_kind(pending)
    if means.pop("nonfinite"):
        manager.wait_until_finished()
        good = manager.latest_step()
        raise UserError(
            f"loss or gradient is not finite between steps {done - len(pending)} and {done}; last "
            f"good checkpoint: " + ("none" if good is None else f"{manager.directory}/{good}")
        )
    return means


def _run(settings, stage, folder, mesh, dataset, manager, preemption, started, profile) -> int:
    loop = settings.loop
    frozen = _placed(stage.frozen, mesh)
    state, before = _restored(manager, _initial(stage, settings, mesh))
    clock = Clock(before, started)
    done = first = int(state["step"])
    iterator = iterate(dataset, settings.data.workers, start=first)
    step = jax.jit(make_step(stage, settings.optimizer, settings.seed), donate_argnums=0)
    places = jax.tree.map(lambda x: x.sharding, state)
    next_phase = jax.jit(
        make_next_phase(stage, settings.optimizer), out_shardings=places, donate_argnums=0
    )

    def save(steps: int) -> None:
        config = stage.config | {"elapsed_seconds": clock.elapsed(), "settings": to_json(settings)}
        train_state.save_step(manager, steps, state, config, force=True)

    quiet = None if jax.process_index() == 0 else True  # None: shown on a terminal only
    throughput, kinds = Throughput(stage, pack_hosts(mesh)[1]), set()
    pending: list[tuple[str, Metrics]] = []
    in_flight: collections.deque[Metrics] = collections.deque()
    elapsed, stop = clock.elapsed(), False
    with (
        contextlib.closing(MetricWriter(str(folder), first)) as writer,
        contextlib.closing(
            tqdm(total=loop.steps, initial=first, disable=quiet, desc=settings.stage)
        ) as bar,
    ):
        hooks = _hooks(stage, settings, mesh, writer, frozen)
        while done < loop.steps and not stop and not 0 < loop.max_seconds <= elapsed:
            if done in stage.starts[1:]:
                logging.info("phase %d begins at step %d", stage.starts.index(done) + 1, done)
                state = next_phase(state)
            waiting = time.monotonic()
            batch = next(iterator)
            waited = time.monotonic() - waiting
            by_clock = elapsed / loop.max_seconds if loop.max_seconds else 0.0
            since, share = stage.progress(done, loop.steps)
            rate = learning_rate(settings.optimizer, since, max(share, by_clock))
            profile.before(done)
            with jax.profiler.StepTraceAnnotation("train", step_num=done):
                inputs = (state, frozen, on_devices(batch, mesh), np.float32(rate))
                if batch.kind in kinds:
                    state, metrics = step(*inputs)
                    throughput.add(batch)
                else:  # compiles
                    kinds.add(batch.kind)
                    with throughput.paused(state):
                        state, metrics = jax.block_until_ready(step(*inputs))
            profile.after(done, metrics)
            done += 1
            pending.append((batch.kind, metrics | {"data_seconds": waited}))
            in_flight.append(metrics)
            if len(in_flight) > STEPS_IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            bar.update()

            elapsed, preempted = clock.elapsed(), preemption.reached()
            finished = done == loop.steps or 0 < loop.max_seconds <= elapsed
            stop = finished or preempted
            if done % loop.log_every == 0 or stop:
                means = _finite_means(pending, done, manager)
                writer.write(done, means | throughput.report() | {"learning_rate": rate})
                pending = []
            saving = done % loop.save_every == 0 or stop
            due = [hook for every, hook in hooks if done % every == 0 or finished]
            if saving or due:
                with throughput.paused(metrics):
                    if saving:
                        save(done)
                    for hook in due:
                        hook(done, state["params"] | state["ema"], batch)
        if stop and not finished:
            logging.info("SIGTERM: saved after step %d; the same command goes on from there", done)
    manager.wait_until_finished()
    return done
