"""SeedVR-3B: 50 guided steps, with the mask predictor of the package.

    python infer.py --config=seedvr_3b --input=clip.mp4

The model of many steps: condition noise 0.1 and guidance 6.5, so the transformer runs 100 times for
each chunk. Checkpoint: converted from the public weights with
``python -m skipsr_jax.checkpoints.convert``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/inference/settings.py."""
    config = ConfigDict()
    config.checkpoint = "checkpoints/seedvr_3b"

    config.sampler = ConfigDict()
    config.sampler.steps = 50
    config.sampler.guidance = 6.5
    config.sampler.condition_noise = 0.1
    return config
