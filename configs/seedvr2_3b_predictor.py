"""SkipSR-3B, step 1: the mask predictor on the frozen public encoder.

    python train.py --config=configs/seedvr2_3b_predictor.py --workdir=runs/3b/predictor \\
        --config.data.root="('/data/clips',)"

Four 3D convolutions of width 648, 23 million parameters, as in the paper (section 4.2); trained on
the data of the transformer with 8 GPUs for 10,000 steps (section 5). One GPU:
--config.optimizer.accumulate=8. A pod: --distributed, and data.batch and data.image_batch multiples
of the chips. Learning rate and crops are choices made here; no run of this length has been made
yet. Read in metrics.jsonl: ``f1``, ``precision``, ``recall``, and ``skip_percent`` against
``skip_percent_oracle``: the paper's predictor skips about 3 points less than the oracle.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SR = str(pathlib.Path(__file__).with_name("seedvr2_3b_sr.py"))


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = runpy.run_path(SR)["get_config"]()
    config.stage = "predictor"
    config.remat = "none"  # no transformer here
    config.init_from = ""

    config.data.batch = 8
    config.data.frames = 17
    config.data.crop = (512, 512)
    config.data.image_batch = 8
    config.data.image_crop = (512, 512)

    config.loss = loss = ConfigDict()
    loss.space = "latent"  # the paper's; "pixels" needs no autoencoder
    loss.pos_weight = 1.0

    config.optimizer.learning_rate = 2e-4
    config.optimizer.weight_decay = 0.0
    config.loop.steps = 10_000
    config.mesh.data = -1
    config.mesh.seq = 1
    config.mesh.fsdp = 1  # 23 million parameters: nothing to spread
    return config
