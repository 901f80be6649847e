"""From many steps to one at the tiny size: progressive distillation of a model of stage sr.

    python train.py --config=configs/tiny_sr.py --workdir=/tmp/tiny/sr4 \\
        --config.vae=/tmp/tiny/vae --config.loss.one_step_share=0.0 --config.loss.pixel_weight=0.0
    python train.py --config=configs/tiny_distill.py --workdir=/tmp/tiny/distill \\
        --config.init_from=/tmp/tiny/sr4 --config.vae=/tmp/tiny/vae

The shipped tiny model is not made this way: tiny_sr.py trains its one step directly, with a loss in
pixels. This file shows the stage that the large models need, from a teacher of 4 steps to 2 to 1.
It has run for a few steps on a CPU only. Read in metrics.jsonl: ``loss`` falls within each phase
(``phase``, ``teacher_steps``, ``student_steps``) and jumps between them.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SR = str(pathlib.Path(__file__).with_name("tiny_sr.py"))


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = runpy.run_path(SR)["get_config"]()
    config.stage = "distill"
    config.init_from = "/tmp/tiny/sr4"

    config.loss = loss = ConfigDict()
    loss.schedule = ((2, 1000), (1, 2000))  # (student steps, optimizer steps)
    loss.matching = "v"
    loss.guidance = 1.0
    loss.rescale = 0.0
    loss.condition_noise = 0.0
    loss.text_lengths = (4, 4)
    loss.samples_per_pack = 1
    loss.kept_share = 1.0
    loss.dense_share = 0.15
    loss.random_drop = 0.1

    config.optimizer.learning_rate = 2e-4
    config.loop.steps = sum(steps for _, steps in loss.schedule)
    config.loop.max_seconds = 0.0
    return config
