"""Stage 3 of the small model: the transformer on kept tokens, with a frozen autoencoder.

    python train.py --config=small_sr --workdir=/tmp/small/sr --config.vae=/tmp/small/vae

Half of the samples are at timestep 1000, half of those with a pixel loss; the others are at all
timesteps, so that the result is a model of many steps, which small_distill needs as its teacher.
No number is expected yet. In metrics.jsonl ``velocity`` falls and ``psnr`` rises above
``psnr_upscaled``.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("small_vae")
    config.stage = "sr"
    config.vae = "/tmp/small/vae"

    data = config.data
    data.batch = 12
    data.crop = (176, 304)

    config.loss = loss = ConfigDict()
    loss.one_step_share = 0.5
    loss.pixel_weight = 10.0
    loss.pixel_samples = 3
    loss.text_lengths = (4, 4)
    loss.dense_share = 0.15

    optimizer = config.optimizer
    optimizer.learning_rate = 5e-4
    optimizer.warmup_steps = 100
    optimizer.weight_decay = 0.01
    optimizer.ema_decay = 0.998

    config.loop.max_seconds = 360.0
    return config
