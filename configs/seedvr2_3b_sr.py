"""Fine-tune SeedVR2-3B for token skipping, stage sr: flow matching on 101 frames of 720p.

    python train.py --config=configs/seedvr2_3b_sr.py --workdir=gs://bucket/seedvr2_3b_sr \
        --config.init_from=checkpoints/seedvr2_3b --config.vae=checkpoints/seedvr2_3b --distributed

The paper trains on clips of about 100 frames at 720p with sequence and data parallelism on 40 GPUs;
a clip has 93,600 tokens, four devices share it here. docs/scaling.md says what fits where, and
docs/launch.md how it is started. Not run by us: no weights and no such machines were at hand.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The settings; any of them can be given as --config.<name>=<value>."""
    config = ConfigDict()
    config.stage = "sr"
    config.model = "seedvr2_3b"
    config.dtype = "bfloat16"
    config.remat = "full"  # the backward pass keeps the input of each layer alone
    config.init_from = ""
    config.vae = ""
    config.seed = 0

    config.data = data = ConfigDict()
    data.root = ("data/train",)
    data.eval_root = ()
    data.cache = ""
    data.workers = 16
    data.batch = 64  # clips over all hosts: one for each share of the packs
    data.frames = 101
    data.crop = (720, 1280)
    data.image_batch = 64
    data.image_crop = (720, 1280)
    data.image_share = 0.0
    data.pan_share = 0.0
    data.degradation = "real"

    config.loss = loss = ConfigDict()
    loss.one_step_share = 0.0
    loss.shift = True
    loss.condition_noise = 0.0
    loss.pixel_weight = 0.0  # decoding 101 frames in the loss costs more than the transformer
    loss.text_lengths = (58, 64)
    loss.samples_per_pack = 1
    loss.kept_share = 1.0
    loss.dense_share = 0.1
    loss.random_drop = 0.1
    loss.negative_share = 0.1

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-5
    optimizer.warmup_steps = 500
    optimizer.weight_decay = 0.01
    optimizer.clip_norm = 1.0
    optimizer.b1 = 0.9
    optimizer.b2 = 0.99
    optimizer.ema_decay = 0.999
    optimizer.accumulate = 1

    config.loop = loop = ConfigDict()
    loop.steps = 20_000
    loop.max_seconds = 0.0
    loop.log_every = 50
    loop.save_every = 500
    loop.eval_every = 0
    loop.eval_batches = 4
    loop.keep = 3

    config.mesh = mesh = ConfigDict()
    mesh.data = 1
    mesh.fsdp = -1
    mesh.seq = 4
    return config
