"""Detail for the tiny one-step model: adversarial training against a discriminator of its size.

    python train.py --config=tiny_adversarial --workdir=workdirs/adversarial \\
        --config.init_from=workdirs/sr --config.vae=workdirs/vae

--config.init_from=checkpoints/tiny --config.vae=checkpoints/tiny start from the shipped model. The
result is exported as that of stage sr is, with python -m skipsr_jax.checkpoints.export
--dit=workdirs/adversarial; the export leaves the discriminator out.

This config shows, at the tiny size, the stage that the large models need. The shipped model was not
made this way: it is measured in PSNR, which this stage trades for detail. No number is expected,
because the config has run for a few steps on a CPU only. In metrics.jsonl ``logit_real`` stays a
little above ``logit_fake`` and ``told_apart_percent`` below 100 while neither network has won;
``latent`` and ``features`` fall; ``psnr`` may drop by a few tenths of a decibel.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("tiny_sr")
    config.stage = "adversarial"
    config.init_from = "workdirs/sr"

    config.loss = loss = ConfigDict()
    loss.depths = (2, 3, 4)
    loss.r1 = 100.0
    loss.r2 = 100.0
    loss.adversarial = 0.1
    loss.features = 1.0
    loss.latent = 1.0
    loss.pixel_weight = 10.0
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
    config.loop.steps = 2000
    config.loop.max_seconds = 0.0
    return config
