"""SkipSR-3B, step 2: the diffusion transformer on kept tokens, from the public SeedVR-3B weights.

    python -m skipsr_jax.checkpoints.convert --dit=seedvr_ema_3b.pth --vae=ema_vae.pth \\
        --positive=pos_emb.pt --negative=neg_emb.pt --out=checkpoints/seedvr_3b
    python train.py --config=seedvr2_3b_sr --workdir=runs/3b/sr \\
        --config.data.root="('/data/clips',)"

One GPU of 141 GB: --config.data.batch=1 --config.mesh.seq=1 --config.remat=auto
    --config.data.pack="((1,17,720,1280),(1,1,720,1280))"
Eight GPUs of one host: --config.data.batch=8 --config.mesh.seq=1
    --config.data.pack="((1,17,720,1280),(1,1,720,1280))"
A pod of 256 chips, in groups of four that share a sequence of 93,600 tokens: as it is, with
--distributed on every host. ``batch`` is one for each group of ``mesh.seq`` devices, or a multiple.

Images and videos are mixed within each sequence (NaViT): ``data.pack`` names its samples. A clip of
93 frames and two pictures have as many tokens as 101 frames.

From the paper (section 5, implementation details): public weights to start from, standard diffusion
training on images and videos mixed, the degradations of SeedVR; 40 A100-80G, batches of about 100
frames at 720p, sequence and data parallelism. From SeedVR: logit-normal timesteps shifted with the
size of the clip, noise 0.1 on the condition. Learning rate, sampling fractions, moving average and
number of steps are choices made here; no run of this length has been made yet, and so no number is
expected. Read in metrics.jsonl: ``velocity`` falls slowly (the weights are good already),
``skip_percent`` against what the data lets skip, ``eval/velocity`` with ``data.eval_root`` set.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = ConfigDict()
    config.stage = "sr"
    config.model = "seedvr2_3b"  # the size; SeedVR-3B and SeedVR2-3B have the same
    config.dtype = "bfloat16"
    config.remat = "full"  # the backward pass keeps the input of each layer alone
    config.init_from = "checkpoints/seedvr_3b"
    config.vae = "checkpoints/seedvr_3b"

    config.data = data = ConfigDict()
    data.root = ("/data/clips",)  # written by python -m skipsr_jax.data.build
    data.eval_crop = (720, 1280)
    data.workers = 16
    data.batch = 64  # sequences over all hosts; one for each shard of the packs
    data.pack = (  # (samples, frames, height, width) of each shape in a sequence
        (1, 93, 720, 1280),
        (1, 1, 720, 1280),
        (1, 1, 1280, 720),
    )
    data.frames = 101  # from here on for pack = (): batches of one shape, pictures in their own
    data.crop = (720, 1280)
    data.image_batch = 64
    data.image_crop = (720, 1280)
    data.pan_share = 0.1
    data.degradation = "real"  # "area" for clean input: more is skipped

    config.loss = loss = ConfigDict()
    loss.one_step_share = 0.0  # a model of many steps; distillation brings it to one
    loss.shift = True
    loss.condition_noise = 0.1
    loss.condition_drop = 0.05
    loss.train_text = False  # they come from a text encoder
    loss.pixel_weight = 0.0
    loss.pixel_samples = 0
    loss.text_lengths = (58, 64)  # of the public embeddings
    loss.kept_share = 1.0  # capacity for all tokens; with "area" 0.75 drops little
    loss.negative_share = 0.1

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-5
    optimizer.warmup_steps = 500
    optimizer.weight_decay = 0.01

    config.loop = loop = ConfigDict()
    loop.steps = 20_000
    loop.log_every = 20
    loop.save_every = 500
    loop.keep = 3

    config.mesh = mesh = ConfigDict()
    mesh.data = 1
    mesh.fsdp = -1  # all groups of seq devices
    mesh.seq = 4
    return config
