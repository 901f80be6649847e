"""Stage 3 of the small model: the transformer on kept tokens, with the tiny model's autoencoder.

    python -m skipsr_jax.checkpoints.grow --model=checkpoints/tiny --to=small --out=/tmp/small/start
    python train.py --config=small_sr --workdir=/tmp/small/sr

It begins with a model of this size that gives the results of the tiny one
(skipsr_jax/models/growth.py). The data of all stages of the small model are set here: clean
reductions and three levels of blur, noise and compression, at factors from 1 to 4. Half of the
samples are at timestep 1000, half of those with a pixel loss; the others are at all timesteps, so
that the result is a model of many steps, which small_distill needs as its teacher. In metrics.jsonl
``velocity`` falls: to 0.125 in 1819 steps of 0.07 seconds on one H200, after 55 seconds of
compilation. ``psnr_kept_upscaled`` counts clean samples of factor 1 with up to 100 dB, so that
``psnr_kept`` stays below it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = ConfigDict()
    config.stage = "sr"
    config.model = "small"
    config.dtype = "bfloat16"
    config.vae = "checkpoints/tiny"
    config.init_from = "/tmp/small/start"

    config.data = data = ConfigDict()
    data.root = ("../shared/data/train",)
    data.cache = "/tmp/skipsr_clips"
    data.workers = 14
    data.batch = 8
    data.echo = 2  # 14 workers make half as many samples as the steps take
    data.frames = 17
    data.crop = (176, 304)
    data.pan_share = 0.4
    data.largest_step = 3
    data.factors = ((4.0, 0.6), (3.0, 0.1), (2.0, 0.2), (1.0, 0.1))
    data.degradation = "mixture"
    data.mixture = (
        ("area", 0.4),
        ("bicubic", 0.1),
        ("bilinear", 0.05),
        ("light", 0.2),
        ("medium", 0.15),
        ("hard", 0.1),
    )

    config.loss = loss = ConfigDict()
    loss.one_step_share = 0.5
    loss.pixel_weight = 10.0
    loss.pixel_samples = 2
    loss.text_lengths = (4, 4)
    loss.dense_share = 0.15

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 5e-4
    optimizer.warmup_steps = 100
    optimizer.weight_decay = 0.01
    optimizer.ema_decay = 0.998

    config.loop = loop = ConfigDict()
    loop.steps = 40_000
    loop.max_seconds = 360.0
    loop.log_every = 100
    loop.save_every = 1000
    return config
