"""SkipSR-7B, step 2, stage sr: as seedvr2_3b_sr.py, with the larger transformer.

    python train.py --config=configs/seedvr_7b_sr.py --workdir=runs/7b/sr \\
        --config.data.root="('/data/clips',)"

8.2 billion parameters: 165 GB of float32 parameters, average, moments and gradients, spread over
mesh.fsdp, so one GPU does not do.
Launch lines, sources of the numbers, and what to read are those of the 3B file.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

OF_3B = str(pathlib.Path(__file__).with_name("seedvr2_3b_sr.py"))


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = runpy.run_path(OF_3B)["get_config"]()
    config.model = "seedvr_7b"
    config.init_from = "checkpoints/seedvr_7b"
    config.vae = "checkpoints/seedvr_7b"
    return config
