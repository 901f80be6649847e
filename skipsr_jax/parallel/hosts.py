"""Several hosts as one program: every process joins the others before it uses a device.

On TPU pods, SLURM, Open MPI and Kubernetes a process learns its number from its environment;
elsewhere flags say it. Invariant: flags that do not belong together are refused before a process
waits for the others.
"""

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from skipsr_jax.errors import UserError, message_of

_ADDRESS = ("coordinator", "num_processes", "process_id")
_CPU_COLLECTIVES = "gloo"
"""The collectives of processes without accelerators, for which jax has no default."""


def define_flags(values: flags.FlagValues) -> None:
    """Defines --distributed, and the flags for hosts that no cluster manager numbers."""
    text = "This is one of several hosts: find the others before anything else."
    flags.DEFINE_bool("distributed", False, text, flag_values=values)
    text = "host:port of process 0, the same for all. Default: from the cluster."
    flags.DEFINE_string("coordinator", None, text, flag_values=values)
    text = "Processes in all. Default: from the cluster."
    flags.DEFINE_integer("num_processes", None, text, flag_values=values)
    text = "Number of this process, from 0. Default: from the cluster."
    flags.DEFINE_integer("process_id", None, text, flag_values=values)


def on_any_host(here: bool) -> bool:
    """Whether ``here`` is true on any host: the same answer on every host."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.asarray(here)).any())


def wait_for_all(name: str) -> None:
    """Returns when every host has come to this point; ``name`` is the same on all of them."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def join(values: flags.FlagValues) -> None:
    """Joins the other processes, when the flags ask for it.

    Raises UserError for flags that do not belong together, and when the others are not found.
    """
    set_flags = [name for name in _ADDRESS if values[name].value is not None]
    if set_flags and not values.distributed:
        raise UserError(f"--{set_flags[0]} is for several hosts: add --distributed")
    if not values.distributed:
        return
    if set_flags and len(set_flags) < len(_ADDRESS):
        missing = " and ".join(f"--{name}" for name in _ADDRESS if name not in set_flags)
        raise UserError(f"--{set_flags[0]} needs {missing} too, or none of them on a cluster")
    if set_flags and not 0 <= values.process_id < values.num_processes:
        raise UserError(
            f"--process_id is {values.process_id}: it must be from 0 to "
            f"{values.num_processes - 1}, below --num_processes"
        )
    jax.config.update("jax_cpu_collectives_implementation", _CPU_COLLECTIVES)
    try:
        jax.distributed.initialize(
            coordinator_address=values.coordinator,
            num_processes=values.num_processes,
            process_id=values.process_id,
        )
    except (ValueError, RuntimeError) as error:
        reason = message_of(error)[:200]
        raise UserError(
            f"the other hosts cannot be found ({reason}): give --coordinator, --num_processes and "
            "--process_id"
        ) from error
