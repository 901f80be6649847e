"""SkipSR-7B, step 3, stage distill: as seedvr2_3b_distill.py, with the larger transformer.

    python train.py --config=seedvr_7b_distill --workdir=runs/7b/distill \\
        --config.data.root="('/data/clips',)"

The teacher adds 16.5 GB of bfloat16 to the state of seedvr_7b_sr, sharded over mesh.fsdp.
Launch lines, sources of the numbers, and what to read are those of the 3B config.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("seedvr2_3b_distill")
    config.model = "seedvr_7b"
    config.init_from = "runs/7b/sr"
    config.vae = "checkpoints/seedvr_7b"
    return config
