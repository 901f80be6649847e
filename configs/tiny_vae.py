"""Stage 1 of the tiny model: the causal video autoencoder with a residual decoder.

    python train.py --config=tiny_vae --workdir=workdirs/vae

The result has 16 latent channels at 1/8 of the size and 1/4 of the frames, and 3.0 million
parameters. Expected in metrics.jsonl at the end: ``psnr`` of the reconstruction 38.8 dB, against
``psnr_upscaled`` 35.7 dB of the bicubic input; ``psnr_of_input`` is the score when the latent comes
from the upscaled input. The shipped autoencoder took two runs on one H200: 185 seconds (3559 steps;
the time limit anneals the learning rate, however many steps that is), and 200 seconds (3270 steps)
with ``init_from`` naming the first. A run of 240 seconds from scratch, most of the first minute of
which is compilation, reached 36.4 dB against 35.6.

As it stands the config trains on the four sample clips, to try it. The numbers are of the clips
that checkpoints/tiny/README.md lists, named by ``data.root``, with 14 workers and a folder as
``data.cache``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = ConfigDict()
    config.stage = "vae"
    config.model = "tiny"
    config.dtype = "bfloat16"

    config.data = data = ConfigDict()
    data.root = ("sample",)  # a few clips to try it with; name folders of your own
    data.batch = 8
    data.frames = 17
    data.crop = (128, 128)
    data.image_share = 0.0  # one shape compiles once; windows that move over pictures instead
    data.pan_share = 0.4

    config.loss = loss = ConfigDict()
    loss.gradient = 0.5
    loss.frequency = 0.05
    loss.kl = 1e-6
    loss.low_quality_share = 0.25

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 5e-4
    optimizer.ema_decay = 0.998

    config.loop = loop = ConfigDict()
    loop.steps = 20_000
    loop.max_seconds = 240.0
    loop.log_every = 100
    loop.save_every = 2000
    return config
