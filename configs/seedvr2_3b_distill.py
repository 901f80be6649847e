"""SkipSR-3B, step 3: from 64 guided steps to one, by progressive distillation.

    python train.py --config=seedvr2_3b_distill --workdir=runs/3b/distill \\
        --config.init_from=runs/3b/sr --config.data.root="('/data/clips',)"

One GPU, eight GPUs, a pod: as in seedvr2_3b_sr.py, from which everything but what is assigned here
comes. The teacher adds 6.8 GB of bfloat16 to the state, sharded over mesh.fsdp like the rest.

From the papers: halving (Salimans & Ho 2022), to one step before adversarial post-training (SkipSR
section 4.2, SeedVR2). SeedVR samples with guidance 6.5, which the first teacher has and its
students learn. The number of steps in each phase and the learning rate are choices made here; no
run of this length has been made yet, and so no number is expected. Read in metrics.jsonl: ``loss``
falls within each phase (``phase``, ``teacher_steps``, ``student_steps``) and jumps between phases;
with data.eval_root and loop.quality_every set, PSNR of the one-step result rises in the last
phases.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("seedvr2_3b_sr")
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
    loss.guidance = 6.5
    loss.condition_noise = 0.1
    loss.text_lengths = (58, 64)

    config.optimizer.warmup_steps = 100  # of each phase
    config.loop.steps = sum(steps for _, steps in loss.schedule)
    return config
