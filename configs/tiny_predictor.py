"""Stage 2 of the tiny model: the mask predictor, on the low-resolution frames themselves.

    python train.py --config=tiny_predictor --workdir=workdirs/predictor

The network has about 0.15 million parameters: energies of 16 learned filters, then four 3D
convolutions of width 48. It needs no autoencoder, so it can train beside stage 1. Expected in
metrics.jsonl after 230 seconds on one H200 with 30 workers (2429 steps; the workers set the pace),
on training crops: ``f1`` 0.965, and ``skip_percent`` 53.7 against ``skip_percent_oracle`` 53.7. On
the eight evaluation clips F1 is 0.936. The shipped predictor, F1 0.941 there, came from a second
run of 235 seconds with

    --config.init_from=workdirs/predictor --config.optimizer.learning_rate=1e-3

The paper's predictor, on the latent of stage 1's frozen encoder:

    python train.py --config=tiny_predictor --workdir=workdirs/predictor_latent \\
        --config.loss.space=latent --config.vae=workdirs/vae

On the tiny model's latents it reaches less: F1 0.861 on training crops after 220 seconds
(1956 steps).

As it stands the config trains on the four sample clips, to try it. The numbers are of the clips
that checkpoints/tiny/README.md lists, named by ``data.root``, with 14 workers and a folder as
``data.cache``.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = ConfigDict()
    config.stage = "predictor"
    config.model = "tiny"
    config.dtype = "bfloat16"

    config.data = data = ConfigDict()
    data.root = ("sample",)  # a few clips to try it with; name folders of your own
    data.batch = 16
    data.frames = 17
    data.crop = (256, 256)
    data.image_batch = 64
    data.soft_share = 0.5

    config.loss = loss = ConfigDict()
    loss.space = "pixels"  # "latent": the paper's
    loss.regression = 0.5

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 2e-3
    optimizer.warmup_steps = 200

    config.loop = loop = ConfigDict()
    loop.steps = 20_000
    loop.max_seconds = 230.0
    loop.log_every = 100
    loop.save_every = 500
    return config
