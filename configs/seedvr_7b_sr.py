"""SkipSR-7B, step 2, stage sr: as seedvr2_3b_sr.py, with the larger transformer.

    python train.py --config=seedvr_7b_sr --workdir=runs/7b/sr \\
        --config.data.root="('/data/clips',)"

8.2 billion parameters: 165 GB of float32 parameters, average, moments and gradients, sharded over
mesh.fsdp, so one GPU is not enough.
Launch lines, sources of the numbers, and what to read are those of the 3B config.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("seedvr2_3b_sr")
    config.model = "seedvr_7b"
    config.init_from = "checkpoints/seedvr_7b"
    config.vae = "checkpoints/seedvr_7b"
    return config
