"""Stage 6 of the small model: the one-step transformer against a discriminator of its size.

    python train.py --config=small_adversarial --workdir=/tmp/small/adversarial \\
        --config.init_from=/tmp/small/distill --config.vae=/tmp/small/vae

Relativistic pairing, the penalties of APT on true and generated latents, and feature matching. No
number is expected yet. In metrics.jsonl ``logit_real`` stays a little above ``logit_fake``, and
``told_apart_percent`` below 100.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("small_sr")
    config.stage = "adversarial"
    config.init_from = "/tmp/small/distill"

    config.loss = loss = ConfigDict()
    loss.depths = (4, 6, 8)
    loss.r1 = 100.0
    loss.r2 = 100.0
    loss.adversarial = 0.3
    loss.features = 1.0
    loss.latent = 0.3
    loss.pixel_weight = 3.0
    loss.pixel_samples = 3
    loss.text_lengths = (4, 4)
    loss.dense_share = 0.15

    optimizer = config.optimizer
    optimizer.kind = "rmsprop"
    optimizer.learning_rate = 1e-4
    optimizer.weight_decay = 0.0
    optimizer.clip_norm = 0.0
    optimizer.b1 = 0.0
    optimizer.b2 = 0.9
    optimizer.ema_decay = 0.99
    config.loop.max_seconds = 240.0
    return config
