"""Stage 3 of the tiny model: the one-step transformer on kept tokens, with a frozen autoencoder.

    python train.py --config=tiny_sr --workdir=workdirs/sr --config.vae=workdirs/vae

Most samples are at timestep 1000, with a pixel loss through the decoder, because the model makes
its picture in one step. Expected in metrics.jsonl at the end: ``psnr`` 35.4 dB in one step, against
``psnr_upscaled`` 34.3 dB of the bicubic input, at ``skip_percent`` 44. The shipped transformer took
two runs on one H200: 148 seconds (1877 steps), and 280 seconds (3465 steps) with ``init_from``
naming the first, on a better autoencoder.

As it stands the config trains on the four sample clips, to try it. The numbers are of the clips
that checkpoints/tiny/README.md lists, named by ``data.root``, with 14 workers and a folder as
``data.cache``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = ConfigDict()
    config.stage = "sr"
    config.model = "tiny"
    config.dtype = "bfloat16"
    config.vae = "workdirs/vae"

    config.data = data = ConfigDict()
    data.root = ("sample",)  # a few clips to try it with; name folders of your own
    data.batch = 6
    data.frames = 17
    data.crop = (176, 304)
    data.image_batch = 32
    data.image_crop = (240, 432)  # the size of a window at 720p, for image_share above 0
    data.pack = ()  # ((2, 17, 176, 304), (6, 1, 240, 432)): so many of each in every sequence
    data.degradation = "area"  # "real": at the levels of data.real (data/degradation/)

    config.loss = loss = ConfigDict()
    loss.one_step_share = 0.75
    loss.pixel_weight = 10.0
    loss.pixel_samples = 3
    loss.text_lengths = (4, 4)
    loss.dense_share = 0.15

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 5e-4
    optimizer.warmup_steps = 50
    optimizer.weight_decay = 0.01
    optimizer.ema_decay = 0.995

    config.loop = loop = ConfigDict()
    loop.steps = 20_000
    loop.max_seconds = 300.0
    loop.log_every = 100
    loop.save_every = 2000
    return config
