"""SkipSR-7B, step 3, stage distill: as seedvr2_3b_distill.py, with the larger transformer.

    python train.py --config=configs/seedvr_7b_distill.py --workdir=runs/7b/distill \\
        --config.data.root="('/data/clips',)"

The teacher adds 16.5 GB of bfloat16 to the state of seedvr_7b_sr.py, spread over mesh.fsdp.
Launch lines, sources of the numbers, and what to read are those of the 3B file.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

OF_3B = str(pathlib.Path(__file__).with_name("seedvr2_3b_distill.py"))


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = runpy.run_path(OF_3B)["get_config"]()
    config.model = "seedvr_7b"
    config.init_from = "runs/7b/sr"
    config.vae = "checkpoints/seedvr_7b"
    return config
