"""Stage 6 of the small model: the one-step transformer against a discriminator of its size.

    python train.py --config=small_adversarial --workdir=/tmp/small/adversarial \\
        --config.init_from=/tmp/small/distill

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

    of_tiny = read_config("tiny_adversarial")
    config.loss = loss = of_tiny.loss
    loss.depths = (4, 6, 8)
    loss.adversarial = 0.3
    loss.latent = 0.3
    loss.pixel_weight = 3.0

    config.optimizer = optimizer = of_tiny.optimizer
    optimizer.warmup_steps = 100
    optimizer.ema_decay = 0.99
    config.loop.max_seconds = 240.0
    return config
