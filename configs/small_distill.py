"""Stage 5 of the small model: from many steps to one by progressive distillation.

    python train.py --config=small_distill --workdir=/tmp/small/distill \\
        --config.init_from=/tmp/small/sr

From a teacher of 4 steps to 2 to 1. The steps are fixed, because each phase has a teacher of its
own; set loss.schedule and loop.steps to what the device does in the time at hand. In metrics.jsonl
``loss`` falls within each phase and jumps between phases: to 0.0004 in phases of 300 and 500 steps
of 0.06 seconds on one H200.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("small_sr")
    config.stage = "distill"
    config.init_from = "/tmp/small/sr"

    config.loss = loss = ConfigDict()
    loss.schedule = ((2, 500), (1, 800))  # (student steps, optimizer steps)
    loss.matching = "x0"
    loss.text_lengths = (4, 4)
    loss.dense_share = 0.15

    config.optimizer.learning_rate = 2e-4
    config.optimizer.ema_decay = 0.99  # a phase ends with the average
    config.loop.steps = sum(steps for _, steps in loss.schedule)
    config.loop.max_seconds = 0.0
    config.loop.save_every = 400
    return config
