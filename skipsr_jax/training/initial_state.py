"""The state that a run starts from: its last checkpoint, else ``init_from``, else fresh."""

import dataclasses
import logging

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from skipsr_jax.checkpoints import store, train_state
from skipsr_jax.checkpoints.damage import DamagedCheckpointError
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import Params
from skipsr_jax.parallel.hosts import on_any_host, wait_for_all
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.step import State, fresh_state
from skipsr_jax.training.workdir import set_aside


def initial_state(stage: Stage, settings: Settings, mesh: Mesh) -> State:
    """The state before the first step, on the mesh, with the parameters of ``init_from`` if named.

    Raises UserError when ``init_from`` is missing or holds another model.
    """

    def fresh(key: jax.Array) -> State:
        return fresh_state(stage, settings.optimizer, key)

    key = jax.random.key(settings.seed)
    sharding = shardings(jax.eval_shape(fresh, key), mesh)
    state = jax.jit(fresh, out_shardings=sharding)(key)
    if settings.init_from and not settings.adapter.rank:  # then it is the frozen transformer's
        source = store.absolute(settings.init_from)
        logging.info("parameters from %s", source)
        branch = store.best_branch(source)
        for name in ("params", "ema"):
            state[name] |= store.restore_params(
                source, state["ema"], sharding["ema"], "float32", branch=branch
            )
    begin = jax.jit(stage.begin, out_shardings=sharding["params"], donate_argnums=0)
    return state | {"params": begin(state["params"])}


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run had taken when a checkpoint was saved.

    Attributes:
      seconds: of training, as ``Clock`` counts them.
      by_kind: seconds of each kind, as ``Goodput`` counts them; empty in older checkpoints.
    """

    seconds: float
    by_kind: dict[str, float]


def restored(manager: ocp.CheckpointManager, state: State) -> tuple[State, Progress]:
    """The state of the newest sound checkpoint, and what the run had taken until then.

    Damaged checkpoints are renamed to ``<step>.damaged``, with a warning. Returns ``state`` and no
    progress where there is no checkpoint yet.

    Raises UserError when a checkpoint is of another model, or when all of them are damaged.
    """
    damaged = []
    while (last := manager.latest_step()) is not None:
        damage = None
        try:
            found = train_state.restore_step(manager, state)
            config = store.load_config(manager.directory, last)
            before = Progress(config["elapsed_seconds"], config.get("goodput_seconds", {}))
        except DamagedCheckpointError as error:
            damage = error
        if not on_any_host(damage is not None):
            logging.info("resumed after step %d (%.0f s)", last, before.seconds)
            return found, before
        logging.warning("damaged, and set aside as %d.damaged: %s", last, damage or "another host")
        damaged.append(last)
        if jax.process_index() == 0:
            set_aside(manager.directory / str(last), "damaged")
        wait_for_all(f"{last} set aside")
        manager.reload()
    if damaged:
        raise UserError(
            f"{manager.directory}: every checkpoint is damaged ({', '.join(map(str, damaged))}); "
            "to begin anew, name another --workdir"
        )
    return state, Progress(0.0, {})


def frozen_on(stage: Stage, mesh: Mesh) -> Params:
    """The frozen parameters of a stage, sharded; what ``stage.load`` reads is never held whole."""
    if stage.load is None:
        return sharded(stage.frozen, mesh)
    loaded = stage.load(mesh)
    others = {name: part for name, part in stage.frozen.items() if name not in loaded}
    return sharded(others, mesh) | loaded


def sharded(params: Params, mesh: Mesh) -> Params:
    """Parameters that every host has in full, sharded: each device reads its part."""
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_callback(
            x.shape, sharding, np.asarray(x).__getitem__
        ),
        params,
        shardings(params, mesh),
    )
