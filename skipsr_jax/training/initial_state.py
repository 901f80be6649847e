"""The state that a run starts from: its last checkpoint, else ``init_from``, else fresh."""

import logging

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from skipsr_jax.checkpoints import store, train_state
from skipsr_jax.models.params import Params
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.step import State, fresh_state


def initial_state(stage: Stage, settings: Settings, mesh: Mesh) -> State:
    """The state before the first step, on the mesh, with the parameters of ``init_from`` if named.

    Raises UserError when ``init_from`` is missing or holds another model.
    """

    def fresh(key: jax.Array) -> State:
        return fresh_state(stage, settings.optimizer, key)

    key = jax.random.key(settings.seed)
    sharding = shardings(jax.eval_shape(fresh, key), mesh)
    state = jax.jit(fresh, out_shardings=sharding)(key)
    if settings.init_from:
        source = store.absolute(settings.init_from)
        logging.info("parameters from %s", source)
        branch = store.best_branch(source)
        for name in ("params", "ema"):
            state[name] |= store.restore_params(
                source, state["ema"], sharding["ema"], "float32", branch=branch
            )
    begin = jax.jit(stage.begin, out_shardings=sharding["params"], donate_argnums=0)
    return state | {"params": begin(state["params"])}


def restored(manager: ocp.CheckpointManager, state: State) -> tuple[State, float]:
    """The last checkpoint's state, and the seconds that the run had taken until then.

    Returns ``state`` and 0 where there is no checkpoint yet.
    """
    last = manager.latest_step()
    if last is None:
        return state, 0.0
    state = train_state.restore_step(manager, state)
    seconds = store.load_config(manager.directory, last)["elapsed_seconds"]
    logging.info("resumed after step %d (%.0f s)", last, seconds)
    return state, seconds


def sharded(params: Params, mesh: Mesh) -> Params:
    """Parameters that every host has in full, sharded: each device reads its part."""
    return jax.tree.map(
        lambda x, sharding: jax.make_array_from_callback(
            x.shape, sharding, np.asarray(x).__getitem__
        ),
        params,
        shardings(params, mesh),
    )
