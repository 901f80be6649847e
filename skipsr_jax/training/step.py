"""One optimizer step as one compiled program, for any stage.

The trainees of a stage are updated one after the other on the same batch: the gradient of a
trainee's loss with respect to its own parameters, its update, then the next trainee, whose loss has
the updated parameters. A batch may be cut into micro-batches, whose gradients are averaged.

Invariant: a trainee whose loss or gradient is not finite is not updated, nor are those after it and
the average; the metric ``nonfinite`` is 1 then. Each trainee is updated in place: to take back an
update that was finite, the old parameters and moments would have to stay in memory.
"""

from collections.abc import Callable
from typing import Any

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
from skipsr_jax.training.optimizer import moving_average, transformation, without
from skipsr_jax.training.settings import Optimizer
from skipsr_jax.training.stage import Metrics, Stage, Trainee
from skipsr_jax.types import Float

State = dict[str, Params]
"""What a checkpoint holds: ``params``, ``ema`` (moving average of the model's parameters, without
auxiliary ones), ``opt_state`` (of each trainee), ``step`` (int32)."""

PREPARE = 1000
"""Number of the random key of ``stage.prepare`` in a step; trainees have 0, 1, ..."""


def _trainees(stage: Stage, params: Params) -> tuple[Trainee, ...]:
    return stage.trainees or (Trainee("all", tuple(params), stage.loss),)


def _own(trainee: Trainee, params: Params) -> Params:
    return {name: params[name] for name in trainee.trains}


def _fresh_training(stage: Stage, optimizer: Optimizer, params: Params) -> State:
    """Parameters with a moving average and optimizer states that start from them."""
    start = transformation(optimizer).init
    return {
        "params": params,
        "ema": jax.tree.map(jnp.copy, stage.model(params)),
        "opt_state": {t.name: start(_own(t, params)) for t in _trainees(stage, params)},
    }


def fresh_state(stage: Stage, optimizer: Optimizer, key: Array) -> State:
    """The state before the first step, before ``stage.begin`` is applied to the parameters."""
    return _fresh_training(stage, optimizer, stage.init(key)) | {"step": jnp.zeros((), jnp.int32)}


def make_next_phase(
    stage: Stage, optimizer: Optimizer, shardings: Any = None
) -> Callable[[State], State]:
    """Returns the jitted function from the state at the end of a phase to that at the start of the
    next.

    The averages become the parameters, ``stage.begin`` is applied to them, and averages and
    optimizers start anew; the step counter continues. The old state is donated, and its memory is
    that of the new one: parts that nothing reads are kept as arguments for that.

    Args:
      shardings: of the state; None: those of the old one.
    """

    def next_phase(state: State) -> State:
        params = stage.begin(state["params"] | state["ema"])
        return state | _fresh_training(stage, optimizer, params)

    return jax.jit(next_phase, out_shardings=shardings, donate_argnums=0, keep_unused=True)


def micro_batches(batch: Batch, parts: int, samples_per_pack: int) -> Batch:
    """The batch with a new leading axis of ``parts``; whole packs go to each part.

    Part i has every ``parts``-th pack, from pack i: so each device keeps an equal number of packs
    of each part, among those that it holds, and the parts are the same on any mesh.
    """
    packs = sum(len(clips) for clips in batch.hr) // samples_per_pack

    def cut(x: Array) -> Array:
        rows = len(x) // packs  # samples of a pack, or 1 for what there is one of in a pack
        x = x.reshape(packs // parts, parts, rows, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(parts, packs // parts * rows, *x.shape[3:])
        return constrain(x, None, PACK_AXES, *(None,) * (x.ndim - 2))

    return jax.tree.map(cut, batch)


def _gradient(
    trainee: Trainee, params: Params, frozen: Params, batch: Batch, parts: Batch | None, key: Array
) -> tuple[Params, Metrics]:
    """The gradient of the trainee's loss, and its metrics with ``loss``.

    ``parts``: the batch as micro-batches, over which both are averaged; None for the whole batch.
    """

    def loss(own: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], Metrics]:
        value, metrics = trainee.loss(params | own, frozen, batch, key)
        return value, metrics | {"loss": value}

    compute = jax.grad(loss, has_aux=True)
    own = _own(trainee, params)
    if parts is None:
        return compute(own, batch, key)

    def add(total: Params, part: tuple[Array, Batch]) -> tuple[Params, Metrics]:
        number, micro = part
        grads, metrics = compute(own, micro, jax.random.fold_in(key, number))
        return jax.tree.map(jnp.add, total, grads), metrics

    count = len(jax.tree.leaves(parts)[0])
    zeros = jax.tree.map(jnp.zeros_like, own)
    total, metrics = jax.lax.scan(add, zeros, (jnp.arange(count), parts))
    mean = jax.tree.map(lambda x: x.mean(axis=0), metrics)
    return jax.tree.map(lambda x: x / count, total), mean


def _prepared(
    stage: Stage, frozen: Params, batch: Batch, parts: Batch | None, key: Array
) -> tuple[Batch, Batch | None]:
    """``stage.prepare`` of the batch, or of its micro-batches one after the other."""
    if stage.prepare is None:
        return batch, parts
    if parts is None:
        return stage.prepare(frozen, batch, key), None

    def prepare(numbered: tuple[Array, Batch]) -> Batch:
        number, micro = numbered
        return stage.prepare(frozen, micro, jax.random.fold_in(key, number))

    count = len(jax.tree.leaves(parts)[0])
    return batch, jax.lax.map(prepare, (jnp.arange(count), parts))


def _choose(finite: Array, new: Any, old: Any) -> Any:
    """``new`` where ``finite``, else ``old``."""
    return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def make_step(
    stage: Stage, optimizer: Optimizer, seed: int
) -> Callable[[State, Params, Batch, Float[Array, ""]], tuple[State, Metrics]]:
    """Returns the function (state, frozen parameters, batch, learning rate) -> (state, metrics).

    Metrics are those of the losses with ``loss`` (the last trainee's), ``grad_norm`` and
    ``nonfinite``; with several trainees also ``loss_<name>`` and ``grad_norm_<name>`` of each. The
    function is pure; jit it.
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
        all_metrics: Metrics = {}
        finite = jnp.asarray(True)
        for number, trainee in enumerate(_trainees(stage, params)):
            own_key = jax.random.fold_in(key, number) if stage.trainees else key
            with jax.named_scope(f"loss_{trainee.name}"):
                grads, metrics = _gradient(trainee, params, frozen, batch, parts, own_key)
            with jax.named_scope("optimizer"):
                grads = without(grads, stage.fixed)
                metrics["grad_norm"] = optax.tree.norm(grads)
                own, name = _own(trainee, params), trainee.name
                finite &= jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
                updates, moments = direction.update(grads, opt_state[name], own)
                updated = optax.tree.add_scale(own, -rate * trainee.rate, updates)
                params = params | _choose(finite, updated, own)
                opt_state[name] = _choose(finite, moments, opt_state[name])
            all_metrics |= metrics
            if stage.trainees:
                all_metrics |= {f"{part}_{name}": metrics[part] for part in ("loss", "grad_norm")}
        since = state["step"] - jnp.max(jnp.where(starts <= state["step"], starts, 0))
        with jax.named_scope("moving_average"):
            ema = moving_average(
                state["ema"], stage.model(params), optimizer.ema_decay, since * 1.0
            )
            ema = _choose(finite, ema, state["ema"])
        new = {"params": params, "ema": ema, "opt_state": opt_state, "step": state["step"] + 1}
        return new, all_metrics | {"nonfinite": 1.0 - finite}

    return step


def on_devices(batch: Batch, mesh: Mesh) -> Batch:
    """This host's part of a batch, sharded over the devices that hold packs."""
    sharding = pack_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def make_evaluation(stage: Stage, seed: int) -> Callable[[Params, Params, Batch], Metrics]:
    """Returns the function (parameters, frozen parameters, batch) -> metrics with ``loss``.

    Its random key is the same at each call. The function is pure; jit it.
    """

    def evaluate(params: Params, frozen: Params, batch: Batch) -> Metrics:
        key = jax.random.key(seed)
        batch, _ = _prepared(stage, frozen, batch, None, jax.random.fold_in(key, PREPARE))
        loss, metrics = stage.loss(params, frozen, batch, key)
        return metrics | {"loss": loss}

    return evaluate
