"""The optimizer: gradient transformation, learning rate schedule, moving average of parameters.

Parameters and moments are float32, whatever the dtype of products. The learning rate is an input of
the compiled step, so that a run with a time limit can be annealed by the clock.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from skipsr_jax.models.params import Params
from skipsr_jax.parallel.rules import path_of
from skipsr_jax.training.settings import Optimizer
from skipsr_jax.types import Float


def learning_rate(settings: Optimizer, step: int, progress: float) -> float:
    """The learning rate: linear warm-up times a cosine from 1 to 0.

    Args:
      settings: peak rate and warm-up steps.
      step: of the phase, from 0.
      progress: fraction of the phase that is done, in [0, 1].
    """
    warmup = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    return settings.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _kernels(params: Params) -> Any:
    """True for the parameters that weight decay acts on: kernels, those of adapters too."""
    names = ("kernel", "lora_a", "lora_b")
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: path_of(keys).rsplit("/", 1)[-1] in names, params
    )


def transformation(settings: Optimizer) -> optax.GradientTransformation:
    """Gradients -> updates, to be multiplied by minus the learning rate."""
    if settings.kind == "adamw":
        scale = optax.scale_by_adam(b1=settings.b1, b2=settings.b2)
    else:
        scale = optax.scale_by_rms(decay=settings.b2, eps_in_sqrt=False, bias_correction=True)
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    return optax.chain(
        clip,
        scale,
        optax.add_decayed_weights(settings.weight_decay, mask=_kernels),
    )


def without(grads: Params, fixed: frozenset[str]) -> Params:
    """Gradients with zeros for the paths that are not trained."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, g: jnp.zeros_like(g) if path_of(keys) in fixed else g, grads
    )


def moving_average(ema: Params, params: Params, decay: float, step: Float[Array, ""]) -> Params:
    """The exponential moving average after ``step`` steps; its decay grows up to ``decay``.

    ``optax.incremental_update`` computes a * p + (1 - a) * e; in this form entries that do not
    change are equal to their average to the last bit.
    """
    decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), ema, params)
