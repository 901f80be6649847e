"""The small model: one step, factors from 1 to 4, for clean and for compressed input.

    python infer.py --config=small --config.checkpoint=MODEL --input=clip.mp4

No weights ship yet: the configs small_* train them, and docs/training.md says how far a first run
came. ``config.sharpness`` chooses between the two sets of weights that such a model may hold.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/inference/settings.py."""
    config = read_config("tiny")
    config.checkpoint = "checkpoints/small"
    return config
