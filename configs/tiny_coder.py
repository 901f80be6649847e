"""Stage 4 of the tiny model: the light coder, distilled from its autoencoder.

    python train.py --config=tiny_coder --workdir=workdirs/coder \\
        --config.vae=workdirs/vae --config.loss.generator=workdirs/sr

As it stands, autoencoder and transformer are those of the shipped model, and stay as they are. The
decoder learns on what the transformer makes of the light encoder's latents, as in inference, so one
run is enough. The shipped light coder is of a run of 320 seconds on one H200 (2894 steps of 0.07
seconds). `latent_effect` in the log has to grow: it was 0.02 after 500 steps and 0.11 at the end.

A model whose transformer is trained further begins without one (--config.loss.generator=), and ends
with --config.loss.joint (docs/training.md).
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("tiny_sr")
    config.stage = "coder"
    config.vae = "checkpoints/tiny"

    config.loss = loss = ConfigDict()
    loss.generator = "checkpoints/tiny"
    loss.own_share = 0.75
    loss.teacher = 0.5
    loss.gradient = 0.5
    loss.frequency = 0.05
    loss.temporal = 0.5
    loss.latent = 0.1
    loss.text_lengths = (4, 4)
    loss.dense_share = 0.5

    optimizer = config.optimizer
    optimizer.learning_rate = 5e-4
    optimizer.warmup_steps = 200
    optimizer.weight_decay = 0.0
    optimizer.ema_decay = 0.998

    config.loop.steps = 20_000
    config.loop.max_seconds = 320.0
    config.loop.save_every = 1000
    return config
