"""Stage 3 of the tiny model: the one-step transformer on kept tokens, autoencoder frozen.

    python train.py --config=configs/tiny_sr.py --workdir=/tmp/tiny/sr --config.vae=/tmp/tiny/vae

Most samples are at timestep 1000, with a pixel loss through the decoder: one step has to give the
picture. The shipped one ran 148 seconds on one H200, 1877 steps, and from there (``init_from``, on
a better autoencoder) 280 seconds, 3465 steps. Read in metrics.jsonl: ``psnr`` (35.4 dB at the end,
one step) against ``psnr_upscaled`` of the bicubic input (34.3 dB), and ``skip_percent`` (44).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = ConfigDict()
    config.stage = "sr"
    config.model = "tiny"
    config.dtype = "bfloat16"
    config.remat = "none"
    config.init_from = ""
    config.vae = "/tmp/tiny/vae"
    config.seed = 0

    config.data = data = ConfigDict()
    data.root = ("../shared/data/train",)
    data.eval_root = ()
    data.eval_frames = 17
    data.eval_crop = (256, 448)
    data.cache = "/tmp/skipsr_clips"
    data.workers = 14
    data.batch = 6
    data.frames = 17
    data.crop = (176, 304)
    data.image_batch = 32
    data.image_crop = (240, 432)  # the shape of a window at 720p, where pictures are mixed in
    data.image_share = 0.0
    data.pack = ()  # ((2, 17, 176, 304), (6, 1, 240, 432)): so many of each in every sequence
    data.pan_share = 0.3
    data.soft_share = 0.0
    data.degradation = "area"  # "real": two rounds of what follows, then video compression

    data.real = real = ConfigDict()
    real.first = first = ConfigDict()
    first.blur_share = 1.0
    first.blur_kinds = (0.6, 0.3, 0.1)  # isotropic, anisotropic, sinc
    first.blur_radius = 10
    first.blur_sigma = (0.2, 3.0)
    first.sinc_cutoff = (0.63, 3.14)
    first.resize = (0.25, 1.5)
    first.noise_share = 0.9
    first.poisson_share = 0.5
    first.gray_share = 0.4
    first.noise_sigma = (1.0, 20.0)
    first.photons = (100.0, 4000.0)
    first.jpeg_share = 0.9
    first.jpeg_quality = (30, 95)
    real.second = second = ConfigDict(first)
    second.blur_share = 0.8
    second.blur_sigma = (0.2, 1.5)
    second.resize = (0.6, 1.5)  # of the target size
    second.noise_share = 0.8
    second.noise_sigma = (1.0, 12.0)
    second.photons = (200.0, 4000.0)
    real.video_share = 0.8
    real.video_codecs = (0.5, 0.3, 0.2)  # H.264, HEVC, MPEG-4
    real.crf = (18, 34)
    real.mpeg4_quantizer = (2, 12)

    config.loss = loss = ConfigDict()
    loss.one_step_share = 0.75
    loss.shift = False
    loss.condition_noise = 0.0
    loss.condition_drop = 0.0
    loss.train_text = True
    loss.pixel_weight = 10.0
    loss.pixel_samples = 3
    loss.gradient = 0.5
    loss.frequency = 0.05
    loss.text_lengths = (4, 4)
    loss.samples_per_pack = 1
    loss.kept_share = 1.0
    loss.dense_share = 0.15
    loss.random_drop = 0.1
    loss.negative_share = 0.1

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 5e-4
    optimizer.warmup_steps = 50
    optimizer.weight_decay = 0.01
    optimizer.clip_norm = 1.0
    optimizer.b1 = 0.9
    optimizer.b2 = 0.99
    optimizer.ema_decay = 0.995

    config.loop = loop = ConfigDict()
    loop.steps = 20_000
    loop.max_seconds = 300.0
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
