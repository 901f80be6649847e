"""SkipSR-3B, step 3: from 64 guided steps to one, by progressive distillation.

    python train.py --config=configs/seedvr2_3b_distill.py --workdir=runs/3b/distill \\
        --config.init_from=runs/3b/sr --config.data.root="('/data/clips',)"

One GPU, eight GPUs, a pod: as in seedvr2_3b_sr.py, from which everything but what is assigned here
comes. The teacher adds 6.8 GB of bfloat16 to the state, spread over mesh.fsdp like the rest.

From the papers: halving (Salimans & Ho 2022), to one step before adversarial post-training (SkipSR
section 4.2, SeedVR2); SeedVR samples with guidance 6.5, which the first teacher has and its
students learn. The number of steps in each phase and the learning rate are choices made here, and
no run of this length has been made yet. Read in metrics.jsonl: ``loss`` falls within each phase
(``phase``, ``teacher_steps``, ``student_steps``) and jumps between them; with data.eval_root and
loop.quality_every set, PSNR of the one-step result rises in the last phases.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SR = str(pathlib.Path(__file__).with_name("seedvr2_3b_sr.py"))


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = runpy.run_path(SR)["get_config"]()
    config.stage = "distill"
    config.init_from = "runs/3b/sr"

    config.loss = loss = ConfigDict()
    loss.schedule = (  # (student steps, optimizer steps); the first teacher has 64
        (32, 1000),
        (16, 1000),
        (8, 1000),
        (4, 2000),
        (2, 2000),
        (1, 4000),
    )
    loss.matching = "v"
    loss.guidance = 6.5
    loss.rescale = 0.0
    loss.condition_noise = 0.1
    loss.text_lengths = (58, 64)
    loss.samples_per_pack = 1
    loss.kept_share = 1.0
    loss.dense_share = 0.1
    loss.random_drop = 0.1

    config.optimizer.warmup_steps = 100  # of each phase
    config.loop.steps = sum(steps for _, steps in loss.schedule)
    return config
