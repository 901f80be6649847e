"""SkipSR-3B, step 4: adversarial post-training of the distilled one-step model.

    python train.py --config=seedvr2_3b_adversarial --workdir=runs/3b/adversarial \\
        --config.init_from=runs/3b/distill --config.data.root="('/data/clips',)"

One GPU, eight GPUs, a pod: as in seedvr2_3b_sr.py, from which everything but what is assigned here
comes. In float32: generator 13.6 GB, its average 13.6 GB, discriminator 14.5 GB, and one moment of
each of the two networks, 28 GB; all of it sharded over mesh.fsdp. One GPU of 141 GB needs
XLA_PYTHON_CLIENT_ALLOCATOR=cuda_async (docs/training.md); there a step of 17 frames and a picture
of 720p takes 5.1 seconds.

From the papers. APT (arXiv 2501.08316): RMSProp with 0.9, no weight decay, no clipping, 3e-6 for
both networks on video, average 0.995, 300 updates of 2048 clips (hence ``accumulate``, as large as
the machines ask for), heads after layers 16, 26 and 36 of 36, perturbation 0.01 for pictures and
0.1 for videos, timesteps of the discriminator shifted by 1 and 12. SeedVR2 (arXiv 2506.05301):
relativistic pairing, R2, weight 1000 of both penalties, and 1 of the adversarial, the feature and
the L1 loss. The 3B transformer has 32 layers; its depths here are the same fractions of them. APT
found that the discriminator does better when it starts from the diffusion model of many steps; here
it starts from the generator's weights. No run of this length has been made yet, and so no number is
expected.

Read in metrics.jsonl: ``told_apart_percent`` between 50 and 100, ``r1`` and ``r2`` small against
the square of ``logit_real`` - ``logit_fake``. When the discriminator separates all samples by a
growing distance, it has won, and the generator learns nothing more.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("seedvr2_3b_sr")
    config.stage = "adversarial"
    config.init_from = "runs/3b/distill"

    config.loss = loss = ConfigDict()
    loss.pairing = "relativistic"
    loss.depths = (14, 23, 32)
    loss.shift_image = 1.0
    loss.shift_video = 12.0
    loss.r1 = 1000.0
    loss.r2 = 1000.0
    loss.sigma_image = 0.01
    loss.sigma_video = 0.1
    loss.adversarial = 1.0
    loss.features = 1.0
    loss.feature_distance = "l1"
    loss.latent = 1.0
    loss.pixel_weight = 0.0  # decoding costs more than the transformer
    loss.pixel_samples = 0
    loss.condition_noise = 0.0  # SeedVR2 leaves the condition as it is
    loss.train_text = False  # they come from a text encoder
    loss.text_lengths = (58, 64)  # of the public embeddings
    loss.kept_share = 0.75
    loss.random_drop = 0.0

    optimizer = config.optimizer
    optimizer.kind = "rmsprop"
    optimizer.learning_rate = 3e-6
    optimizer.warmup_steps = 0
    optimizer.weight_decay = 0.0
    optimizer.clip_norm = 0.0
    optimizer.b1 = 0.0
    optimizer.b2 = 0.9
    optimizer.ema_decay = 0.995
    config.loop.steps = 300
    config.loop.log_every = 10
    config.loop.save_every = 50
    return config
