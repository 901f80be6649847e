"""The loop that every stage runs in: restore, step, log, save, stop.

Start: the workdir's own last complete checkpoint, else ``init_from``, else fresh parameters. Stop:
after the last step, at the time limit, or on SIGTERM, each time with a saved checkpoint. The same
command again goes on from there.

Invariant: step i sees batch i and random key i, so a resumed run repeats an uninterrupted one
(exactly, unless the learning rate is driven by the clock).
"""

import collections
import dataclasses
import json
import logging
import pathlib
import signal
import time
from typing import Any

import grain
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from tqdm import tqdm

from skipsr_jax.checkpoints import store, train_state
from skipsr_jax.checkpoints.dataclass_json import to_json
from skipsr_jax.data.clips import find_sources
from skipsr_jax.data.dataset import batches, iterate
from skipsr_jax.errors import UserError
from skipsr_jax.parallel.mesh import make_mesh, pack_shards, packs, replicated
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.training.frozen import best_branch
from skipsr_jax.training.metrics import MetricWriter, mean_by_kind
from skipsr_jax.training.optimizer import learning_rate
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Batch, Metrics, Stage
from skipsr_jax.training.step import State, fresh_state, make_evaluation, make_step

STEPS_IN_FLIGHT = 3
"""The host runs at most so many steps ahead of the devices."""


class Preemption:
    """Whether SIGTERM has come. On several hosts: whether it has come to any."""

    def __init__(self):
        self._here = False
        self._before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        self._here = True

    def reached(self) -> bool:
        """The same answer on every host."""
        if jax.process_count() == 1:
            return self._here
        return bool(multihost_utils.process_allgather(np.asarray(self._here)).any())

    def close(self) -> None:
        """Gives the signal back to whoever had it."""
        signal.signal(signal.SIGTERM, self._before)


@dataclasses.dataclass(frozen=True)
class Clock:
    """Seconds trained, over all restarts; every host reads the first host's."""

    before: float
    started: float

    def elapsed(self) -> float:
        """Seconds so far."""
        seconds = np.asarray(self.before + time.monotonic() - self.started)
        if jax.process_count() > 1:
            seconds = multihost_utils.broadcast_one_to_all(seconds)
        return float(seconds)


def set_aside_incomplete(directory: pathlib.Path) -> None:
    """Renames half-written or half-copied step folders to ``<step>.incomplete``, with a warning."""
    if not directory.is_dir() or jax.process_index() != 0:
        return
    for child in sorted(directory.iterdir()):
        if not child.name.isdigit():
            continue
        try:
            store.step_folder(child)
        except UserError as error:
            child.rename(child.with_name(child.name + ".incomplete"))
            logging.warning("ignored and set aside as %s.incomplete: %s", child.name, error)


def _initial(stage: Stage, settings: Settings, mesh: Mesh) -> State:
    def make(key):
        return fresh_state(stage, settings.optimizer, key)

    key = jax.random.key(settings.seed)
    places = shardings(jax.eval_shape(make, key), mesh)
    state = jax.jit(make, out_shardings=places)(key)
    if settings.init_from:
        source = store.absolute(settings.init_from)
        logging.info("parameters from %s", source)
        branch = best_branch(source)
        for name in ("params", "ema"):
            state[name] |= store.restore_params(
                source, state["ema"], places["ema"], "float32", branch=branch
            )
    begin = jax.jit(stage.begin, out_shardings=places["params"], donate_argnums=0)
    return state | {"params": begin(state["params"])}


def _on_devices(batch: Batch, mesh: Mesh) -> Batch:
    place = packs(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, x), batch)


def _kind(batch: Batch) -> str:
    return "image" if batch["hr"].shape[1] == 1 else "video"


def _check_batch(settings: Settings, stage: Stage, mesh: Mesh) -> None:
    samples, accumulate = stage.samples_per_pack, settings.optimizer.accumulate
    shapes = {"batch": stage.recipe.video}
    if stage.recipe.image_share:
        shapes["image_batch"] = stage.recipe.image
    for name, shape in shapes.items():
        if shape.batch % (samples * pack_shards(mesh) * accumulate):
            raise UserError(
                f"data.{name} is {shape.batch}: it must be a multiple of {samples} samples a pack "
                f"x {pack_shards(mesh)} devices x optimizer.accumulate {accumulate}"
            )


class Evaluation:
    """Mean metrics of the averaged parameters on the same held-out batches each time."""

    def __init__(self, stage: Stage, settings: Settings, mesh: Mesh):
        dataset = batches(find_sources(settings.data.eval_root), stage.recipe, _hosts())
        self._batches = [dataset[i] for i in range(settings.loop.eval_batches)]
        self._evaluate = jax.jit(make_evaluation(stage, settings.seed))
        self._mesh = mesh

    def __call__(self, params: Any, frozen: Any) -> dict[str, float]:
        entries = [
            (_kind(b), self._evaluate(params, frozen, _on_devices(b, self._mesh)))
            for b in self._batches
        ]
        return {f"eval/{name}": value for name, value in mean_by_kind(entries).items()}


def _hosts() -> tuple[int, int]:
    return jax.process_index(), jax.process_count()


def train(settings: Settings, stage: Stage, workdir: str) -> int:
    """Runs the stage in ``workdir`` until it is done, and returns the number of finished steps.

    Raises UserError when data, mesh or checkpoints do not fit, and when a loss is not finite; the
    last good checkpoint is named then.
    """
    started = time.monotonic()
    mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.seq)
    _check_batch(settings, stage, mesh)
    folder = store.absolute(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        (folder / "config.json").write_text(json.dumps(to_json(settings), indent=2))
    set_aside_incomplete(pathlib.Path(folder / "checkpoints"))
    sources = find_sources(settings.data.root)
    iterator = iterate(batches(sources, stage.recipe, _hosts()), settings.data.workers)

    preemption = Preemption()
    manager = train_state.open_manager(folder / "checkpoints", max_to_keep=settings.loop.keep)
    try:
        with jax.set_mesh(mesh):
            return _run(settings, stage, folder, mesh, iterator, manager, preemption, started)
    finally:
        manager.close()
        preemption.close()


def _run(settings, stage, folder, mesh, iterator, manager, preemption, started) -> int:
    loop = settings.loop
    frozen = jax.device_put(stage.frozen, replicated(mesh))
    state = _initial(stage, settings, mesh)
    before, last = 0.0, manager.latest_step()
    if last is not None:
        state = train_state.restore_step(
            manager, state, grain.checkpoint.CheckpointRestore(iterator)
        )
        before = store.load_config(manager.directory, last)["elapsed_seconds"]
        logging.info("resumed after step %d (%.0f s)", last, before)
    clock = Clock(before, started)
    done = first = int(state["step"])
    evaluation = Evaluation(stage, settings, mesh) if loop.eval_every else None
    step = jax.jit(make_step(stage, settings.optimizer, settings.seed), donate_argnums=0)

    def save(steps: int) -> None:
        config = stage.config | {"elapsed_seconds": clock.elapsed(), "settings": to_json(settings)}
        data = grain.checkpoint.CheckpointSave(iterator)
        train_state.save_step(manager, steps, state, config, data, force=True)

    writer = MetricWriter(str(folder), first)
    pending: list[tuple[str, Metrics]] = []
    in_flight: collections.deque[Metrics] = collections.deque()
    mark = (time.monotonic(), 0)  # since the last log: when, and samples seen
    bar = tqdm(total=loop.steps, initial=first, disable=None, desc=settings.stage)
    elapsed = clock.elapsed()
    while done < loop.steps and not (loop.max_seconds and elapsed >= loop.max_seconds):
        waiting = time.monotonic()
        batch = next(iterator)
        waited = time.monotonic() - waiting
        by_clock = elapsed / loop.max_seconds if loop.max_seconds else 0.0
        rate = learning_rate(settings.optimizer, done, max(done / loop.steps, by_clock))
        state, metrics = step(state, frozen, _on_devices(batch, mesh), np.float32(rate))
        done += 1
        pending.append((_kind(batch), metrics | {"data_seconds": waited}))
        in_flight.append(metrics)
        if len(in_flight) > STEPS_IN_FLIGHT:
            jax.block_until_ready(in_flight.popleft())
        mark = (mark[0], mark[1] + len(batch["hr"]) * jax.process_count())
        bar.update()

        elapsed = clock.elapsed()
        stop = preemption.reached() or (loop.max_seconds and elapsed >= loop.max_seconds)
        stop = stop or done == loop.steps
        if done % loop.log_every == 0 or stop:
            means = mean_by_kind(pending)
            if means.pop("nonfinite"):
                good = manager.latest_step()
                raise UserError(
                    f"loss or gradient is not finite between steps {done - len(pending)} and "
                    f"{done}; last good checkpoint: "
                    + (f"{manager.directory}/{good}" if good is not None else "none")
                )
            seconds = time.monotonic() - mark[0]
            speed = {
                "step_seconds": seconds / len(pending),
                "samples_per_second": mark[1] / seconds,
            }
            writer.write(done, means | speed | {"learning_rate": rate})
            pending, mark = [], (time.monotonic(), 0)
        if evaluation is not None and (done % loop.eval_every == 0 or stop):
            writer.write(done, evaluation(state["params"] | state["ema"], frozen))
        if done % loop.save_every == 0 or stop:
            save(done)
        if preemption.reached():
            logging.info("SIGTERM: saved after step %d; the same command goes on from there", done)
            break
    bar.close()
    writer.close()
    manager.wait_until_finished()
    return done
