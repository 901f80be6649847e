"""Stage 7 of the small model: transformer and light coder together, in pixels.

    python -m skipsr_jax.checkpoints.export --dit=/tmp/small/distill \\
        --light_coder=/tmp/small/coder --out=/tmp/small/both --ema
    python train.py --config=small_joint_coder --workdir=/tmp/small/faithful \\
        --config.init_from=/tmp/small/both
    python train.py --config=small_joint_coder --workdir=/tmp/small/sharp \\
        --config.init_from=/tmp/small/faithful \\
        --config.loss.adversarial=0.05 --config.optimizer.learning_rate=1e-4

The first run gives the faithful model, the second one, against a patch discriminator in pixels that
is conditioned on latents, the sharp one. They start from the same weights and differ little, which
``sharpness`` of inference relies on: it interpolates between them. In metrics.jsonl read
``crispness``, 1 for frames as crisp as the truth, ``latent_effect``, and in the second run
``logit_real`` and ``logit_fake``. docs/training.md has the scores of the runs so far.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("small_coder")
    config.init_from = "/tmp/small/both"
    config.data.batch = 6
    config.data.crop = (176, 304)
    config.data.factors = ((4.0, 0.75), (3.0, 0.08), (2.0, 0.12), (1.0, 0.05))
    config.data.mixture = (
        ("area", 0.5),
        ("bicubic", 0.12),
        ("bilinear", 0.08),
        ("light", 0.15),
        ("medium", 0.1),
        ("hard", 0.05),
    )

    loss = config.loss
    loss.joint = True
    loss.own_share = 1.0  # inference has no other encoder
    loss.teacher = 0.0
    loss.latent = 0.0  # nothing else needs the full autoencoder
    loss.text_lengths = (4, 4)
    loss.dense_share = 0.3

    config.optimizer.learning_rate = 4e-4
    config.loop.max_seconds = 330.0
    return config
