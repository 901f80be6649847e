"""One optimizer step as one compiled program, for any stage.

The players of a stage take their turns on the same batch: gradient of the player's loss with
respect to its own parameters, update, then the next one, who sees them updated. A batch may be cut
into micro-batches, whose gradients are averaged.

Invariant: a step whose loss or gradient is not finite changes nothing but the step counter; its
metric ``nonfinite`` is 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import Mesh

from skipsr_jax.data.batch import Batch
from skipsr_jax.models.params import Params
from skipsr_jax.parallel.activations import PACK_AXES, constrain
from skipsr_jax.parallel.mesh import pack_sharding
from skipsr_jax.training.optimizer import averaged, transformation, without
from skipsr_jax.training.settings import Optimizer
from skipsr_jax.training.stage import Metrics, Player, Stage
from skipsr_jax.types import Float

State = dict[str, Params]
"""params, ema (of the model alone), opt_state (of each player), step (int32): what a checkpoint
holds."""

PREPARE = 1000
"""Number of the random key of ``stage.prepare`` in a step; players have 0, 1, ..."""


def _players(stage: Stage, params: Params) -> tuple[Player, ...]:
    return stage.players or (Player("all", tuple(params), stage.loss),)


def _own(player: Player, params: Params) -> Params:
    return {name: params[name] for name in player.trains}


def fresh_state(stage: Stage, optimizer: Optimizer, key: Array) -> State:
    """The state before the first step, with ``stage.begin`` still to come."""
    params = stage.init(key)
    start = transformation(optimizer).init
    return {
        "params": params,
        "ema": jax.tree.map(jnp.copy, stage.model(params)),
        "opt_state": {p.name: start(_own(p, params)) for p in _players(stage, params)},
        "step": jnp.zeros((), jnp.int32),
    }


def make_next_phase(stage: Stage, optimizer: Optimizer) -> Callable[[State], State]:
    """The state at the end of a phase -> at the beginning of the next one. Pure; jit it.

    The averages become the parameters, ``stage.begin`` sees them, and averages and optimizers start
    anew; the step counter goes on.
    """
    start = transformation(optimizer).init

    def next_phase(state: State) -> State:
        params = stage.begin(state["params"] | state["ema"])
        return state | {
            "params": params,
            "ema": jax.tree.map(jnp.copy, stage.model(params)),
            "opt_state": {p.name: start(_own(p, params)) for p in _players(stage, params)},
        }

    return next_phase


def micro_batches(batch: Batch, parts: int, samples_per_pack: int) -> Batch:
    """The batch with a new leading axis of ``parts``; whole packs go to each.

    Part i takes every ``parts``-th pack, from pack i: so each device keeps an equal share of each
    part of the packs that it holds, and the parts are the same on any mesh.
    """
    packs = sum(len(clips) for clips in batch.hr) // samples_per_pack

    def cut(x: Array) -> Array:
        rows = len(x) // packs  # a pack's samples, or 1 for what is there once a pack
        x = x.reshape(packs // parts, parts, rows, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(parts, packs // parts * rows, *x.shape[3:])
        return constrain(x, None, PACK_AXES, *(None,) * (x.ndim - 2))

    return jax.tree.map(cut, batch)


def _gradient(
    player: Player, params: Params, frozen: Params, batch: Batch, parts: Batch | None, key: Array
) -> tuple[Params, Metrics]:
    """The gradient of the player's loss, and its metrics, ``loss`` among them.

    ``parts``: the batch as micro-batches, whose means are taken; None for the batch at once.
    """

    def loss(own: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], Metrics]:
        value, metrics = player.loss(params | own, frozen, batch, key)
        return value, metrics | {"loss": value}

    compute = jax.grad(loss, has_aux=True)
    own = _own(player, params)
    if parts is None:
        return compute(own, batch, key)

    def add(total: Params, part: tuple[Array, Batch]) -> tuple[Params, Metrics]:
        number, micro = part
        grads, metrics = compute(own, micro, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, total, grads), metrics

    count = len(jax.tree.leaves(parts)[0])
    zeros = jax.tree.map(jnp.zeros_like, own)
    total, seen = jax.lax.scan(add, zeros, (jnp.arange(count), parts))
    return jax.tree.map(lambda x: x / count, total), jax.tree.map(lambda x: x.mean(axis=0), seen)


def _prepared(
    stage: Stage, frozen: Params, batch: Batch, parts: Batch | None, key: Array
) -> tuple[Batch, Batch | None]:
    """The batch, or its micro-batches one after the other, as ``stage.prepare`` leaves them."""
    if stage.prepare is None:
        return batch, parts
    if parts is None:
        return stage.prepare(frozen, batch, key), None

    def prepare(numbered: tuple[Array, Batch]) -> Batch:
        number, micro = numbered
        return stage.prepare(frozen, micro, jax.random.fold_in(key, number))

    count = len(jax.tree.leaves(parts)[0])
    return batch, jax.lax.map(prepare, (jnp.arange(count), parts))


def make_step(
    stage: Stage, optimizer: Optimizer, seed: int
) -> Callable[[State, Params, Batch, Float[Array, ""]], tuple[State, Metrics]]:
    """(state, frozen parameters, batch, learning rate) -> (state, metrics). Pure; jit it.

    Metrics are those of the losses with ``loss`` (the last player's), ``grad_norm`` and
    ``nonfinite``; with several players ``loss_<name>`` and ``grad_norm_<name>`` stand beside.
    """
    direction = transformation(optimizer)
    starts = np.asarray(stage.starts, np.int32)

    def step(state: State, frozen: Params, batch: Batch, rate: Float[Array, ""]):
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        parts = None
        if optimizer.accumulate > 1:
            parts = micro_batches(batch, optimizer.accumulate, stage.samples_per_pack)
        batch, parts = _prepared(stage, frozen, batch, parts, jax.random.fold_in(key, PREPARE))
        params, opt_state = state["params"], dict(state["opt_state"])
        seen: Metrics = {}
        finite = jnp.asarray(True)
        players = _players(stage, params)
        for number, player in enumerate(players):
            own_key = jax.random.fold_in(key, number) if stage.players else key
            grads, metrics = _gradient(player, params, frozen, batch, parts, own_key)
            grads = without(grads, stage.fixed)
            metrics["grad_norm"] = optax.tree.norm(grads)
            finite &= jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            own, name = _own(player, params), player.name
            updates, opt_state[name] = direction.update(grads, opt_state[name], own)
            params = params | optax.tree.add_scale(own, -rate * player.rate, updates)
            seen |= metrics
            if stage.players:
                seen |= {f"{part}_{name}": metrics[part] for part in ("loss", "grad_norm")}
        since = state["step"] - jnp.max(jnp.where(starts <= state["step"], starts, 0))
        new = {
            "params": params,
            "ema": averaged(state["ema"], stage.model(params), optimizer.ema_decay, since * 1.0),
            "opt_state": opt_state,
        }
        old = {name: state[name] for name in new}
        new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        return new | {"step": state["step"] + 1}, seen | {"nonfinite": 1.0 - finite}

    return step


def on_devices(batch: Batch, mesh: Mesh) -> Batch:
    """This host's share of a batch, over the devices that hold packs."""
    sharding = pack_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def make_evaluation(stage: Stage, seed: int) -> Callable[[Params, Params, Batch], Metrics]:
    """(parameters, frozen parameters, batch) -> metrics of the loss, with a fixed key."""

    def evaluate(params: Params, frozen: Params, batch: Batch) -> Metrics:
        key = jax.random.key(seed)
        batch, _ = _prepared(stage, frozen, batch, None, jax.random.fold_in(key, PREPARE))
        loss, metrics = stage.loss(params, frozen, batch, key)
        return metrics | {"loss": loss}

    return evaluate
