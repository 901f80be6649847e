"""Stage 1 of the tiny model: the causal video autoencoder with a residual decoder.

    python train.py --config=configs/tiny_vae.py --workdir=/tmp/tiny/vae

What it makes: 16 channels at 8 x 8 x 4, 3.0 million parameters. The shipped one ran 185 seconds on
one H200, 3559 steps (the time limit anneals the learning rate, however many steps that is), and
from there (``init_from``) 200 seconds more, 3270 steps. Read in metrics.jsonl: ``psnr`` of
reconstruction (38.8 dB at the end) against ``psnr_upscaled`` of the bicubic input (35.7 dB), and
``psnr_of_input``, from the latent of the upscaled input. 240 seconds from scratch, of which most of
the first is compilation, reached 36.4 dB against 35.6.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = ConfigDict()
    config.stage = "vae"
    config.model = "tiny"
    config.dtype = "bfloat16"
    config.init_from = ""
    config.seed = 0

    config.data = data = ConfigDict()
    data.root = ("../shared/data/train",)
    data.eval_root = ()
    data.eval_frames = 17
    data.eval_crop = (256, 448)
    data.cache = "/tmp/skipsr_clips"
    data.workers = 14
    data.batch = 8
    data.frames = 17
    data.crop = (128, 128)
    data.image_batch = 16
    data.image_crop = (256, 256)
    data.image_share = 0.0  # one shape compiles once; pictures pan instead
    data.pan_share = 0.4
    data.soft_share = 0.0
    data.degradation = "area"

    config.loss = loss = ConfigDict()
    loss.gradient = 0.5
    loss.frequency = 0.05
    loss.kl = 1e-6
    loss.low_quality_share = 0.25

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 5e-4
    optimizer.warmup_steps = 100
    optimizer.weight_decay = 0.0
    optimizer.clip_norm = 1.0
    optimizer.b1 = 0.9
    optimizer.b2 = 0.99
    optimizer.ema_decay = 0.998

    config.loop = loop = ConfigDict()
    loop.steps = 20_000
    loop.max_seconds = 240.0
    loop.log_every = 100
    loop.save_every = 2000
    loop.eval_every = 0
    loop.eval_batches = 4
    loop.quality_every = 0  # PSNR and SSIM on data.eval_root
    loop.quality_clips = 8
    loop.panel_every = 0  # pictures in samples/
    loop.keep = 2

    config.mesh = mesh = ConfigDict()
    mesh.data = -1
    mesh.fsdp = 1
    mesh.seq = 1
    return config
