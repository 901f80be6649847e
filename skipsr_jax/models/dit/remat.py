"""Rematerialisation: what a block's forward pass stores, and its backward pass computes again.

A policy that stores less needs less memory and more time. ``auto`` leaves the choice to whoever
compiles the program: ``training.remat`` tries policies until the step fits the device.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

from skipsr_jax.kernels.attention import RESIDUALS
from skipsr_jax.parallel.fsdp import GATHERED

OUTPUTS = "sublayer_outputs"
"""Name of what attention's output projection and the MLP add to the tokens, before their gates."""

_policies = jax.checkpoint_policies
REMAT_POLICIES = {
    "none": _policies.save_anything_except_these_names(GATHERED),
    "dots": _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable,
        _policies.save_only_these_names(RESIDUALS),
    ),
    "outputs": _policies.save_only_these_names(RESIDUALS, OUTPUTS),
    "attention": _policies.save_only_these_names(RESIDUALS),
    "full": _policies.nothing_saveable,
}
"""What the backward pass finds stored, most first: everything but parameters that were gathered for
a layer; results of dense layers and of attention; results of attention, of its output projection
and of MLPs; results of attention; block inputs alone."""

AUTO = "auto"

_of_auto = contextvars.ContextVar("remat_of_auto", default="full")


def policy(remat: str) -> Callable[..., Any]:
    """The policy of a key of ``REMAT_POLICIES``; of ``AUTO`` that of the scope, else ``full``."""
    return REMAT_POLICIES[_of_auto.get() if remat == AUTO else remat]


@contextlib.contextmanager
def auto_means(remat: str) -> Iterator[None]:
    """A scope in which ``AUTO`` has the policy ``remat``. It is read when a program is traced."""
    token = _of_auto.set(remat)
    try:
        yield
    finally:
        _of_auto.reset(token)
