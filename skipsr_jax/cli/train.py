"""Train one stage of a SkipSR model.

    python train.py --config=tiny_vae --workdir=workdirs/vae
    python train.py --config=tiny_vae --workdir=workdirs/vae --config.loop.steps=100

The command skipsr-train, where the package is installed, is the same program. --config takes the
name of a config in configs/ or a Python file; --config.a.b=value changes one entry of it. The files
in configs/ say what each stage needs and what it should reach. The workdir holds checkpoints,
metrics.jsonl, pictures and TensorBoard events; the same command again resumes, on as many hosts as
there are then. On several hosts run the same command on each, with --distributed; TPU pods, SLURM,
Open MPI and Kubernetes say who is who, elsewhere --coordinator, --num_processes and --process_id
do. The workdir is one that all hosts see.
"""

import logging
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict

from skipsr_jax import commandline, signals
from skipsr_jax.checkpoints.damage import is_after_failure
from skipsr_jax.errors import UserError, one_line, system_errors
from skipsr_jax.out_of_memory import memory_errors
from skipsr_jax.parallel import hosts
from skipsr_jax.training import loop
from skipsr_jax.training.profile import ProfileWindow
from skipsr_jax.training.settings import complete, explain, from_config
from skipsr_jax.training.stages import registry as stages

LESS_MEMORY = (
    "lower config.data.batch, config.data.frames, config.data.crop or config.data.workers, or set "
    "config.remat=full"
)
SHORT_TRIAL = ("--config.loop.steps=2", "--config.data.batch=1", "--config.data.frames=5")
"""What makes a run short enough for a CPU."""
QUIET_LIBRARIES = ("orbax", "grain", "asyncio")
"""Their messages below WARNING are not logged, nor their tracebacks."""


GPU_MEMORY_VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""The names, new and old, of the environment variable of the fraction of a GPU's memory that JAX
takes. JAX accepts one of them."""
GPU_MEMORY = "0.92"
"""Their value where neither is set: a training run has the card to itself. JAX's own is 0.75."""


def define_flags() -> flags.FlagValues:
    """The flags beside --config."""
    values = flags.FlagValues()
    text = "Folder of this run: checkpoints, metrics and pictures. It is made if needed."
    flags.DEFINE_string("workdir", None, text, flag_values=values)
    hosts.define_flags(values)
    text = "Profile the steps first:stop, e.g. 10:15, into the workdir's folder profile."
    flags.DEFINE_string("profile_steps", "", text, flag_values=values)
    text = "Keep compiled programs in this folder, so that later runs start faster."
    flags.DEFINE_string("compile_cache_dir", None, text, flag_values=values)
    return values


def log_to_stderr() -> None:
    """Logs to stderr, one line for each message."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_wanted)
    sys.unraisablehook = _report_unraisable


def _is_wanted(record: logging.LogRecord) -> bool:
    """Whether a message is logged: a failed save is raised, and its threads need not log it too."""
    if any(name in record.pathname for name in QUIET_LIBRARIES):
        return record.levelno > logging.INFO and not record.exc_info
    return True


def _report_unraisable(failure: Any) -> None:
    """Reports what no caller can catch, unless it only follows from a save that failed."""
    if not is_after_failure(failure):
        sys.__unraisablehook__(failure)


def help_on_stages() -> Iterator[str]:
    """The lines of --help without --config: the configs, and the entries of all stages."""
    yield "\n\nconfigs:"
    yield from commandline.config_lines(lambda config: "stage" in config)
    for number, stage in enumerate(stages.LOSS_KINDS):
        config = complete(ConfigDict({"stage": stage}), stages.LOSS_KINDS)
        texts = explain(config, stages.LOSS_KINDS)
        of_stage = list(commandline.entry_lines(config, texts, "loss."))
        if number == 0:
            del config["loss"]
            yield "\nentries of all configs, with their defaults:"
            yield from commandline.entry_lines(config, texts)
        yield f"\nentries of stage {stage}:"
        yield from of_stage


def cpu_hint(argv: Sequence[str]) -> str:
    """What to say of a run on a CPU, with the flags of a short trial that ``argv`` lacks."""
    keys = {argument.split("=", 1)[0].lstrip("-") for argument in argv}
    left = [flag for flag in SHORT_TRIAL if flag.split("=")[0].lstrip("-") not in keys]
    line = "there is no GPU or TPU: the configs are made for one, and a step on a CPU may take "
    return f"{line}minutes" + (f"; to try the program add {' '.join(left)}" if left else "")


def run(argv: Sequence[str]) -> None:
    """Trains the stage that the command line names. Raises UserError for a user's mistake."""
    if not any(argument.lstrip("-").startswith("config") for argument in argv):
        if commandline.asks_for_help(argv):
            commandline.end_with_help(__doc__, define_flags(), "\n".join(help_on_stages()))
        raise UserError("--config is missing: name a config or a file, e.g. --config=tiny_vae")
    kinds = stages.LOSS_KINDS
    values, config = commandline.parse(
        argv, "", define_flags(), __doc__,
        lambda config: complete(config, kinds), lambda config: explain(config, kinds),
        trains=True,
    )  # fmt: skip
    if not values.workdir:
        raise UserError("--workdir is missing: name the folder of this run")
    if values.compile_cache_dir:
        jax.config.update("jax_compilation_cache_dir", values.compile_cache_dir)
    if not any(name in os.environ for name in GPU_MEMORY_VARIABLES):
        os.environ[GPU_MEMORY_VARIABLES[0]] = GPU_MEMORY  # read when a device is first asked for
    hosts.join(values)
    settings = from_config(config, stages.LOSS_KINDS)
    logging.info("on %d x %s: %s", jax.device_count(), jax.devices()[0].device_kind, settings)
    if jax.default_backend() == "cpu":
        logging.warning(cpu_hint(argv))
    profile = ProfileWindow(values.profile_steps, os.path.join(values.workdir, "profile"))
    stage = stages.make(settings)
    steps = loop.train(settings, stage, values.workdir, profile)
    print(f"stage {settings.stage}: {steps} steps done, checkpoint in {values.workdir}/checkpoints")


def main(argv: Sequence[str]) -> int:
    """Returns the exit status: 0 when done or stopped by SIGTERM, 1 after one line on a mistake."""
    program = pathlib.Path(argv[0]).name
    log_to_stderr()
    try:
        with system_errors(), memory_errors("training", LESS_MEMORY):
            run(argv)
    except UserError as error:
        print(f"{program}: {one_line(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        return signals.report(program, stop, signals.status_of_training)
    return 0
