"""Stage 4 of the small model: the light coder that ships, distilled from the full autoencoder.

    python train.py --config=small_coder --workdir=/tmp/small/coder

3.4 million parameters; it begins with the tiny one's, made wider. It needs no transformer, so it
can train beside stage 3; small_joint_coder then trains both in pixels. In metrics.jsonl ``psnr``
passes ``psnr_teacher``, and ``latent_input`` and ``latent_truth`` fall below 1. On one H200 a step
takes 0.05 seconds once the data keep up, after 90 seconds of compilation. From random weights,
after 1531 steps: ``psnr`` 34.8 (teacher 34.2), ``latent_input`` 0.36, ``latent_truth`` 0.27,
``latent_effect`` 0.29.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("small_sr")
    config.stage = "coder"
    config.init_from = "/tmp/small/start"

    data = config.data
    data.batch = 8
    data.crop = (128, 192)

    config.loss = loss = ConfigDict()
    loss.own_share = 0.5
    loss.low_quality_share = 0.25
    loss.teacher = 0.5
    loss.gradient = 0.5
    loss.frequency = 0.05
    loss.temporal = 0.5
    loss.latent = 1.0

    optimizer = config.optimizer
    optimizer.learning_rate = 8e-4
    optimizer.weight_decay = 0.0
    config.loop.max_seconds = 330.0
    return config
