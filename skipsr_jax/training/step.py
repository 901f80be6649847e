"""One optimizer step as one compiled program, for any stage.

Invariant: a step whose loss or gradient is not finite changes nothing but the step counter; its
metric ``nonfinite`` is 1.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from skipsr_jax.nn.params import Params
from skipsr_jax.training.optimizer import averaged, transformation, without
from skipsr_jax.training.settings import Optimizer
from skipsr_jax.training.stage import Batch, Metrics, Stage
from skipsr_jax.types import Array, Float

State = dict[str, Params]
"""params, ema, opt_state, step (int32): what a checkpoint holds."""


def fresh_state(stage: Stage, optimizer: Optimizer, key: Array) -> State:
    """The state before the first step."""
    params = stage.init(key)
    return {
        "params": params,
        "ema": jax.tree.map(jnp.copy, params),
        "opt_state": transformation(optimizer).init(params),
        "step": jnp.zeros((), jnp.int32),
    }


def make_step(
    stage: Stage, optimizer: Optimizer, seed: int
) -> Callable[[State, Params, Batch, Float[Array, ""]], tuple[State, Metrics]]:
    """(state, frozen parameters, batch, learning rate) -> (state, metrics). Pure; jit it."""
    direction = transformation(optimizer)

    def step(state: State, frozen: Params, batch: Batch, rate: Float[Array, ""]):
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        compute = jax.value_and_grad(stage.loss, has_aux=True)
        (loss, metrics), grads = compute(state["params"], frozen, batch, key)
        grads = without(grads, stage.fixed)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)

        updates, opt_state = direction.update(grads, state["opt_state"], state["params"])
        params = jax.tree_util.tree_map(lambda p, u: p - rate * u, state["params"], updates)
        new = {
            "params": params,
            "ema": averaged(state["ema"], params, optimizer.ema_decay, state["step"] * 1.0),
            "opt_state": opt_state,
        }
        old = {name: state[name] for name in new}
        new = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        metrics = metrics | {"loss": loss, "grad_norm": norm, "nonfinite": 1.0 - finite}
        return new | {"step": state["step"] + 1}, metrics

    return step


def make_evaluation(stage: Stage, seed: int) -> Callable[[Params, Params, Batch], Metrics]:
    """(parameters, frozen parameters, batch) -> metrics of the loss, with a fixed key."""

    def evaluate(params: Params, frozen: Params, batch: Batch) -> Metrics:
        loss, metrics = stage.loss(params, frozen, batch, jax.random.key(seed))
        return metrics | {"loss": loss}

    return evaluate
