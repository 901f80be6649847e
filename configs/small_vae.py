"""Stage 1 of the small model: the causal video autoencoder, teacher of the light coder that ships.

    python train.py --config=small_vae --workdir=/tmp/small/vae

6.7 million parameters with a residual decoder. The data of all stages of the small model are set
here: clean reductions and three levels of blur, noise and compression, at factors from 1 to 4. No
number is expected yet, because the config has run for a few steps on a CPU only. In metrics.jsonl
``psnr`` and ``psnr_of_input`` rise above ``psnr_upscaled``, and ``latent_std`` stays near 1.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = ConfigDict()
    config.stage = "vae"
    config.model = "small"
    config.dtype = "bfloat16"

    config.data = data = ConfigDict()
    data.root = ("../shared/data/train",)
    data.cache = "/tmp/skipsr_clips"
    data.workers = 14
    data.batch = 16
    data.frames = 17
    data.crop = (128, 128)
    data.pan_share = 0.4
    data.largest_step = 3
    data.factors = ((4.0, 0.6), (3.0, 0.1), (2.0, 0.2), (1.0, 0.1))
    data.degradation = "mixture"
    data.mixture = (
        ("area", 0.3),
        ("bicubic", 0.1),
        ("bilinear", 0.05),
        ("light", 0.25),
        ("medium", 0.2),
        ("hard", 0.1),
    )

    config.loss = loss = ConfigDict()
    loss.gradient = 0.5
    loss.frequency = 0.05
    loss.kl = 1e-6
    loss.low_quality_share = 0.25

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 5e-4
    optimizer.ema_decay = 0.998

    config.loop = loop = ConfigDict()
    loop.steps = 40_000
    loop.max_seconds = 330.0
    loop.log_every = 100
    loop.save_every = 1000
    return config
