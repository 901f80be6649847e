"""The autoencoder of SeedVR and SeedVR2, trained further. Optional: 3B and 7B use the public one.

    python train.py --config=configs/seedvr_vae.py --workdir=runs/vae \\
        --config.data.root="('/data/clips',)"

250,648,227 parameters, from the converted public weights; for material that those do not know well.
Transformers and predictors were trained on the public latents: after this stage they have to be
trained again. One GPU: --config.data.batch=1. All numbers are choices made here, and no run of this
length has been made yet. Read in metrics.jsonl: ``psnr`` of reconstruction, ``kl``.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

TINY = str(pathlib.Path(__file__).with_name("tiny_vae.py"))


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = runpy.run_path(TINY)["get_config"]()
    config.model = "seedvr2_3b"
    config.init_from = "checkpoints/seedvr_3b"

    data = config.data
    data.root = ("/data/clips",)
    data.cache = ""
    data.workers = 16
    data.frames = 17
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
