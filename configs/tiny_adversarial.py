"""Detail for the tiny one-step model: adversarial post-training against a discriminator like it.

    python train.py --config=configs/tiny_adversarial.py --workdir=/tmp/tiny/adversarial \\
        --config.init_from=/tmp/tiny/sr --config.vae=/tmp/tiny/vae

--config.init_from=checkpoints/tiny --config.vae=checkpoints/tiny start from the shipped model. The
result goes on as that of stage sr does: python -m skipsr_jax.checkpoints.export
--dit=/tmp/tiny/adversarial; the discriminator stays behind.

The shipped model is not made this way: it is measured in PSNR, which this stage pays with. It shows
the stage that the large models need, and has run for a few steps on a CPU only. Read in
metrics.jsonl: ``logit_real`` stays above ``logit_fake`` by a little and ``told_apart_percent``
below 100 while nobody has won; ``latent`` and ``features`` fall; ``psnr`` may drop by a few tenths.
"""

import pathlib
import runpy

from ml_collections import ConfigDict

SR = str(pathlib.Path(__file__).with_name("tiny_sr.py"))


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = runpy.run_path(SR)["get_config"]()
    config.stage = "adversarial"
    config.init_from = "/tmp/tiny/sr"

    config.loss = loss = ConfigDict()
    loss.pairing = "relativistic"
    loss.depths = (2, 3, 4)
    loss.discriminator_rate = 1.0
    loss.shift_image = 1.0
    loss.shift_video = 12.0
    loss.r1 = 100.0
    loss.r2 = 100.0
    loss.sigma_image = 0.01
    loss.sigma_video = 0.1
    loss.adversarial = 0.1
    loss.features = 1.0
    loss.feature_distance = "l1"
    loss.latent = 1.0
    loss.pixel_weight = 10.0
    loss.pixel_samples = 3
    loss.gradient = 0.5
    loss.frequency = 0.05
    loss.condition_noise = 0.0
    loss.train_text = True
    loss.text_lengths = (4, 4)
    loss.samples_per_pack = 1
    loss.kept_share = 1.0
    loss.dense_share = 0.15
    loss.random_drop = 0.1

    optimizer = config.optimizer
    optimizer.kind = "rmsprop"
    optimizer.learning_rate = 1e-4
    optimizer.weight_decay = 0.0
    optimizer.clip_norm = 0.0
    optimizer.b1 = 0.0
    optimizer.b2 = 0.9
    config.loop.steps = 2000
    config.loop.max_seconds = 0.0
    return config
