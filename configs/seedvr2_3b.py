"""SeedVR2-3B: one step, no guidance, with the mask predictor of the package.

    python infer.py --config=seedvr2_3b --input=clip.mp4

The transformer has 3.4 billion parameters, 7 GB in bfloat16. Chunks have 101 frames, as in the
released scripts. Checkpoint: converted from the public weights with
``python -m skipsr_jax.checkpoints.convert``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/inference/settings.py."""
    config = ConfigDict()
    config.checkpoint = "checkpoints/seedvr2_3b"
    return config
