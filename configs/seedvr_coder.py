"""The light coder for the latent of SeedVR and SeedVR2, distilled from the public autoencoder.

    python train.py --config=seedvr_coder --workdir=runs/coder --config.data.root="('/data/clips',)"

then what a one-step transformer makes is decoded, for sharp pictures against a discriminator:

    python train.py --config=seedvr_coder --workdir=runs/coder_one_step \\
        --config.init_from=runs/coder --config.loss.generator=checkpoints/seedvr2_3b \\
        --config.loss.text_lengths="(58,64)" --config.loss.adversarial=0.05 \\
        --config.optimizer.learning_rate=1e-4 --config.loop.steps=10000 \\
        --config.data.root="('/data/clips',)"

and --config.loss.joint trains the transformer in pixels too (docs/training.md). 11,026,972
parameters are trained; nearly all work is that of the frozen autoencoder of 250,648,227: 43 TFLOP
for a clip, of which the light coder has 1.4. One GPU: --config.data.batch=4. All numbers are
choices made here; crops, learning rate and average are those of published light coders for other
latents. No run of this length has been made yet, and so no number is expected. Read in
metrics.jsonl: ``latent_truth`` and ``latent_input``, the encoder's error as a fraction of the
variance of latents, and ``psnr`` against ``psnr_teacher`` of the full decoder.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("tiny_coder")
    config.model = "seedvr2_3b"  # 7B has the same autoencoder
    config.vae = "checkpoints/seedvr_3b"

    data = config.data
    data.root = ("/data/clips",)  # written by python -m skipsr_jax.data.build
    data.cache = ""
    data.workers = 16
    data.batch = 32
    data.crop = (256, 256)
    data.pan_share = 0.1

    config.loss = loss = ConfigDict()
    loss.own_share = 0.5
    loss.low_quality_share = 0.25
    loss.noise = 0.2
    loss.teacher = 0.5
    loss.temporal = 0.5

    optimizer = config.optimizer
    optimizer.learning_rate = 3e-4
    optimizer.warmup_steps = 500
    optimizer.ema_decay = 0.999

    config.loop.steps = 50_000
    config.loop.max_seconds = 0.0
    config.loop.save_every = 500
    return config
