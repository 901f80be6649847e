"""Several hosts as one program: every process joins before it looks at a device.

TPU pods, SLURM, Open MPI and Kubernetes tell a process who it is; elsewhere flags do. Invariant:
flags that do not belong together are refused before anything waits for anybody.
"""

import jax
from absl import flags

from skipsr_jax.errors import UserError

_ADDRESS = ("coordinator", "num_processes", "process_id")
_CPU_COLLECTIVES = "gloo"
"""How processes without accelerators exchange numbers; jax's own default there is none."""


def define_flags(values: flags.FlagValues) -> None:
    """--distributed, and what says who is who where nothing else does."""
    text = "This is one of several hosts: find the others before anything else."
    flags.DEFINE_bool("distributed", False, text, flag_values=values)
    text = "host:port of process 0, the same for all. Default: from the cluster."
    flags.DEFINE_string("coordinator", None, text, flag_values=values)
    text = "Processes in all. Default: from the cluster."
    flags.DEFINE_integer("num_processes", None, text, flag_values=values)
    text = "Number of this process, from 0. Default: from the cluster."
    flags.DEFINE_integer("process_id", None, text, flag_values=values)


def join(values: flags.FlagValues) -> None:
    """Joins the others, when the flags ask for it. Raises UserError for flags that do not fit."""
    given = [name for name in _ADDRESS if values[name].value is not None]
    if given and not values.distributed:
        raise UserError(f"--{given[0]} is for several hosts: add --distributed")
    if not values.distributed:
        return
    if given and len(given) < len(_ADDRESS):
        missing = " and ".join(f"--{name}" for name in _ADDRESS if name not in given)
        raise UserError(f"--{given[0]} needs {missing} too, or none of them on a cluster")
    if given and not 0 <= values.process_id < values.num_processes:
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
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the other hosts cannot be found ({reason}): give --coordinator, --num_processes and "
            "--process_id"
        ) from error
