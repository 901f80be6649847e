"""SeedVR2-7B: one step, no guidance, with the mask predictor of the package.

    python infer.py --config=seedvr2_7b --input=clip.mp4

The transformer has 8.2 billion parameters, 17 GB in bfloat16. Checkpoint: converted from the public
weights with ``python -m skipsr_jax.checkpoints.convert``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/inference/settings.py."""
    config = ConfigDict()
    config.checkpoint = "checkpoints/seedvr2_7b"
    return config
