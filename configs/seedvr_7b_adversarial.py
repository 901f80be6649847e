"""SkipSR-7B, step 4, stage adversarial: as seedvr2_3b_adversarial.py, with the larger transformer.

    python train.py --config=seedvr_7b_adversarial --workdir=runs/7b/adversarial \\
        --config.data.root="('/data/clips',)"

Heads after layers 16, 26 and 36, as APT and SeedVR2 have them. In float32: generator 33 GB, its
average 33 GB, discriminator 34 GB, and one moment of each of the two networks, 67 GB.
Launch lines, sources of the numbers, and what to read are those of the 3B config.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("seedvr2_3b_adversarial")
    config.model = "seedvr_7b"
    config.loss.depths = (16, 26, 36)
    config.init_from = "runs/7b/distill"
    config.vae = "checkpoints/seedvr_7b"
    return config
