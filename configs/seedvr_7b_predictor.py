"""SkipSR-7B, step 1, stage predictor: as seedvr2_3b_predictor.py, with the larger transformer.

    python train.py --config=configs/seedvr_7b_predictor.py --workdir=runs/7b/predictor \\
        --config.data.root="('/data/clips',)"

The predictor sees latents alone, and 3B and 7B have the same autoencoder: one trained for 3B
serves 7B as it is.
Launch lines, sources of the numbers, and what to read are those of the 3B file.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

OF_3B = str(pathlib.Path(__file__).with_name("seedvr2_3b_predictor.py"))


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = runpy.run_path(OF_3B)["get_config"]()
    config.model = "seedvr_7b"
    config.vae = "checkpoints/seedvr_7b"
    return config
