"""SkipSR-7B, step 1, stage predictor: as seedvr2_3b_predictor.py, with the larger transformer.

    python train.py --config=seedvr_7b_predictor --workdir=runs/7b/predictor \\
        --config.data.root="('/data/clips',)"

The predictor reads latents alone, and 3B and 7B have the same autoencoder: a predictor trained for
3B serves 7B as it is.
Launch lines, sources of the numbers, and what to read are those of the 3B config.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("seedvr2_3b_predictor")
    config.model = "seedvr_7b"
    config.vae = "checkpoints/seedvr_7b"
    return config
