"""The compiled training step that fits the device, with the rematerialisation that it takes.

With ``remat=auto`` the compiler's account of memory decides, so a policy costs a compilation to
try. ``none`` is not tried: what it stores beyond ``dots`` are results of cheap operations, which
take about as long to read as to compute.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax

from skipsr_jax.errors import UserError, first_line
from skipsr_jax.models.dit import AUTO
from skipsr_jax.models.dit.remat import auto_means
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.training.batch_memory import missing_memory

TRIED = ("dots", "outputs", "attention", "full")
"""The policies of ``auto``, most memory first."""

Step = Callable[..., Any]


def fitting_step(make_step: Callable[[], Step], remat: str, inputs: tuple[Any, ...]) -> Step:
    """The jitted step, compiled for ``inputs``, of which the first is donated.

    Args:
      make_step: returns the step function.
      remat: of the run. With ``auto`` the first of ``TRIED`` is taken with which the step fits, and
        the log names it.
      inputs: arguments of the step.

    Raises UserError, which names the keys that help, when the step does not fit the memory.
    """
    short = None
    for policy in TRIED if remat == AUTO else (remat,):
        if short is not None:
            logging.info("config.remat=auto: a step %s, so %s is tried", short, policy)
        step, compiled = _compiled(_with_policy(make_step(), policy), inputs)
        short = missing_memory(compiled)
        if short is None:
            if remat == AUTO:
                logging.info("config.remat=auto: the step runs with remat=%s", policy)
            return step
    raise UserError(
        f"a training step {short}: lower config.data.batch (and raise "
        "config.optimizer.accumulate), config.data.frames or config.data.crop, set "
        "config.remat=full, or split the parameters over more devices (config.mesh.fsdp)"
    )


def _compiled(step: Step, inputs: tuple[Any, ...]) -> tuple[Step, jax.stages.Compiled]:
    """The jitted step, and its program for ``inputs``.

    Where it cannot be compiled with the options for convolutions, because cuDNN has no kernel for
    one of their gradients, it is compiled without.
    """
    options = convolution_options(fused=False)
    try:
        jitted = jax.jit(step, donate_argnums=0, compiler_options=options)
        return jitted, jitted.lower(*inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        if not options:
            raise
        said = "the step is compiled without %s, with which that failed: %s"
        logging.warning(said, " and ".join(options), first_line(error))
    jitted = jax.jit(step, donate_argnums=0)
    return jitted, jitted.lower(*inputs).compile()


def _with_policy(step: Step, policy: str) -> Step:
    """``step``, in which ``auto`` means ``policy`` whenever it is traced."""

    @functools.wraps(step)
    def run(*inputs: Any) -> Any:
        with auto_means(policy):
            return step(*inputs)

    return run
