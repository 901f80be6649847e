"""SkipSR-3B fine-tuned on one card: an adapter (LoRA) of the one-step SeedVR2-3B, on kept tokens.

    python -m skipsr_jax.checkpoints.convert --dit=seedvr2_ema_3b.pth --vae=ema_vae.pth \\
        --positive=pos_emb.pt --negative=neg_emb.pt --out=checkpoints/seedvr2_3b
    python train.py --config=seedvr2_3b_lora_sr --workdir=runs/3b/lora \\
        --config.data.root="('/data/clips',)"
    python infer.py --config=seedvr2_3b --config.adapter=runs/3b/lora --input=clip.mp4

One device. The transformer is frozen in bfloat16; ``adapter.precision=fp8`` stores its kernels in
half of that. Adapters, their average and moments are float32. docs/training.md says what is known
of the memory that a step needs.

Rank, targets and alpha are those that fine-tuning of diffusion transformers usually takes. Learning
rate and number of steps are choices made here; no run of 3B has been made yet, and so no number is
expected. Read in metrics.jsonl: ``velocity`` (the loss), and ``eval/velocity`` with
``data.eval_root`` set: where it rises, the run has seen enough.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = ConfigDict()
    config.stage = "sr"
    config.model = "seedvr2_3b"
    config.dtype = "bfloat16"
    config.remat = "full"  # the backward pass keeps the input of each layer alone
    config.init_from = "checkpoints/seedvr2_3b"  # the frozen transformer
    config.vae = "checkpoints/seedvr2_3b"

    config.adapter = adapter = ConfigDict()
    adapter.rank = 16
    adapter.alpha = 16.0
    adapter.targets = ("_blocks/",)  # all dense layers of all blocks
    adapter.dropout = 0.0
    adapter.precision = "bf16"

    config.data = data = ConfigDict()
    data.root = ("/data/clips",)  # written by python -m skipsr_jax.data.build
    data.eval_crop = (720, 1280)
    data.workers = 8
    data.batch = 1
    data.frames = 17
    data.crop = (720, 1280)
    data.pan_share = 0.1
    data.degradation = "real"

    config.loss = loss = ConfigDict()
    loss.one_step_share = 1.0  # the model makes its picture in one step
    loss.condition_noise = 0.0
    loss.train_text = False
    loss.pixel_weight = 0.0
    loss.pixel_samples = 0
    loss.text_lengths = (58, 64)  # of the public embeddings
    loss.negative_share = 0.0

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-4
    optimizer.warmup_steps = 50

    config.loop = loop = ConfigDict()
    loop.steps = 2000
    loop.log_every = 20
    loop.save_every = 200
    return config
