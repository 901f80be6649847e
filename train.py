"""Train one stage of a SkipSR model.

    python train.py --config=configs/tiny_vae.py --workdir=/tmp/tiny/vae
    python train.py --config=configs/tiny_vae.py --workdir=/tmp/tiny/vae --config.loop.steps=100

The files in configs/ say what each stage needs and what it should reach. The workdir holds
checkpoints, metrics.jsonl and TensorBoard events; the same command again resumes. On several hosts
run the same command on each.
"""

import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from skipsr_jax.errors import UserError
from skipsr_jax.training import loop, stages
from skipsr_jax.training.settings import from_config

_CONFIG = config_flags.DEFINE_config_file("config", None, "what to train: a file in configs/")
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run, made if needed")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "one of several hosts: find the others first"
)


def _quiet_libraries() -> None:
    """Leaves Orbax's and grain's diary out of the log; their warnings stay."""
    noisy = ("orbax", "grain")
    logging.get_absl_handler().addFilter(
        lambda record: record.levelno > 20 or not any(n in record.pathname for n in noisy)
    )


def main(argv: list[str]) -> None:
    """Config -> settings -> stage -> loop."""
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: options begin with --")
    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    settings = from_config(_CONFIG.value, stages.LOSS_KINDS)
    logging.info(
        "%d x %s; settings:\n%s", jax.device_count(), jax.devices()[0].device_kind, settings
    )
    stage = stages.make(settings)
    steps = loop.train(settings, stage, _WORKDIR.value)
    print(f"{settings.stage}: {steps} steps done, checkpoint in {_WORKDIR.value}/checkpoints")


def run() -> None:
    """``main`` with one clear line for what the user can mend."""
    flags.mark_flags_as_required(["config", "workdir"])
    logging.set_verbosity(logging.INFO)
    _quiet_libraries()
    try:
        app.run(main)
    except (UserError, AttributeError, KeyError) as error:
        if not isinstance(error, UserError) and "config" not in str(error).lower():
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
