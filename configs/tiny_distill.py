"""From many steps to one at the tiny size: progressive distillation of a model of stage sr.

    python train.py --config=tiny_sr --workdir=workdirs/sr4 \\
        --config.vae=workdirs/vae --config.loss.one_step_share=0.0 --config.loss.pixel_weight=0.0
    python train.py --config=tiny_distill --workdir=workdirs/distill \\
        --config.init_from=workdirs/sr4 --config.vae=workdirs/vae

This config shows, at the tiny size, the stage that the large models need: from a teacher of 4 steps
to 2 to 1. The shipped tiny model was not made this way: tiny_sr trains its one step directly, with
a loss in pixels. No number is expected, because the config has run for a few steps on a CPU only.
In metrics.jsonl ``loss`` falls within each phase (``phase``, ``teacher_steps``, ``student_steps``)
and jumps between phases.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("tiny_sr")
    config.stage = "distill"
    config.init_from = "workdirs/sr4"

    config.loss = loss = ConfigDict()
    loss.schedule = ((2, 1000), (1, 2000))  # (student steps, optimizer steps)
    loss.text_lengths = (4, 4)
    loss.dense_share = 0.15

    config.optimizer.learning_rate = 2e-4
    config.loop.steps = sum(steps for _, steps in loss.schedule)
    config.loop.max_seconds = 0.0
    return config
