"""Stage 4 of the small model: the light coder that ships, distilled from its autoencoder.

    python train.py --config=small_coder --workdir=/tmp/small/coder --config.vae=/tmp/small/vae

3.4 million parameters. It needs no transformer, so it can train beside stage 3; small_joint_coder
then trains both in pixels. No number is expected yet. In metrics.jsonl ``psnr`` nears
``psnr_teacher``, and ``latent_input`` and ``latent_truth`` fall below 1.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("small_sr")
    config.stage = "coder"

    data = config.data
    data.batch = 12
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
    config.loop.max_seconds = 360.0
    return config
