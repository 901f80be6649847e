"""The shipped tiny model: 176x144 -> 704x576 in seconds, from weights that were trained in minutes.

    python infer.py
    python infer.py --input=clip.mp4 --config.size.factor=2

Checkpoints: checkpoints/tiny and checkpoints/mask_predictor, which come with the package (their
READMEs have the scores); the configs tiny_vae, tiny_sr and tiny_predictor trained them.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/inference/settings.py."""
    config = ConfigDict()
    config.checkpoint = "checkpoints/tiny"
    config.chunk = ConfigDict({"frames": 33, "overlap": 4})
    config.encode = "dense"
    config.decode = "dense"
    config.sparse_up_to = 0.6  # for encode or decode = "auto": sparse coding pays up to here
    return config
