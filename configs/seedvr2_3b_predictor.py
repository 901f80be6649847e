"""SkipSR-3B, step 1: the mask predictor on the frozen public encoder.

    python train.py --config=seedvr2_3b_predictor --workdir=runs/3b/predictor \\
        --config.data.root="('/data/clips',)"

Four 3D convolutions of width 648, 23 million parameters, as in the paper (section 4.2); trained on
the data of the transformer with 8 GPUs for 10,000 steps (section 5). One GPU:
--config.optimizer.accumulate=8. A pod: --distributed, with data.batch and data.image_batch
multiples of the number of chips. Learning rate and crops are choices made here; no run of this
length has been made yet. Read in metrics.jsonl: ``f1``, ``precision``, ``recall``, and
``skip_percent`` against ``skip_percent_oracle``: the paper's predictor skips about 3 points less
than the oracle.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("seedvr2_3b_sr")
    config.stage = "predictor"
    config.remat = "none"  # no transformer here
    config.init_from = ""

    config.data.pack = ()  # no sequences of tokens either
    config.data.image_share = 0.2
    config.data.batch = 8
    config.data.frames = 17
    config.data.crop = (512, 512)
    config.data.image_batch = 8
    config.data.image_crop = (512, 512)

    config.loss = ConfigDict({"space": "latent"})  # the paper's; "pixels" needs no autoencoder

    config.optimizer.learning_rate = 2e-4
    config.optimizer.weight_decay = 0.0
    config.loop.steps = 10_000
    config.mesh.data = -1
    config.mesh.seq = 1
    config.mesh.fsdp = 1  # 23 million parameters fit on every device
    return config
