"""The autoencoder of SeedVR and SeedVR2, trained further from the converted public weights.

    python train.py --config=seedvr_vae --workdir=runs/vae --config.data.root="('/data/clips',)"

The stage is optional: 3B and 7B use the public autoencoder, of 250,648,227 parameters, and this is
for material that it reconstructs badly. Transformers and predictors were trained on the public
latents, so after this stage they have to be trained again. One GPU: --config.data.batch=1. All
numbers are choices made here, no run of this length has been made yet, and so no number is
expected. Read in metrics.jsonl: ``psnr`` of the reconstruction, and ``kl``.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("tiny_vae")
    config.model = "seedvr2_3b"
    config.init_from = "checkpoints/seedvr_3b"

    data = config.data
    data.root = ("/data/clips",)
    data.cache = ""
    data.workers = 16
    data.crop = (256, 256)
    data.pan_share = 0.1

    config.loss.low_quality_share = 0.5  # half of what it encodes in use is upscaled

    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 500
    config.optimizer.ema_decay = 0.999

    config.loop.steps = 20_000
    config.loop.max_seconds = 0.0
    config.loop.save_every = 500
    return config
