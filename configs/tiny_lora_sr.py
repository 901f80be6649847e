"""The tiny model fine-tuned by an adapter (LoRA) on clips of one kind; also on a CPU.

    python train.py --config=tiny_lora_sr --workdir=runs/lora --config.data.root="('clips',)"
    python infer.py --config.adapter=runs/lora --input=clip.mp4

The adapter has 130,560 parameters (0.5 MB) beside the 2.6 million of the transformer. Read in
metrics.jsonl: ``psnr`` against ``psnr_upscaled``, of the bicubic input. How far it gets depends on
the clips; no run of this length has been made.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = ConfigDict()
    config.stage = "sr"
    config.model = "tiny"
    config.init_from = "checkpoints/tiny"  # the frozen transformer
    config.vae = "checkpoints/tiny"

    config.adapter = adapter = ConfigDict()
    adapter.rank = 8
    adapter.alpha = 8.0
    adapter.targets = ("_blocks/",)  # all dense layers of all blocks

    config.data = data = ConfigDict()
    data.root = ("clips",)
    data.workers = 4
    data.batch = 2
    data.frames = 9
    data.crop = (176, 304)
    data.degradation = "area"

    config.loss = loss = ConfigDict()
    loss.one_step_share = 1.0
    loss.train_text = False
    loss.pixel_weight = 10.0
    loss.pixel_samples = 2
    loss.text_lengths = (4, 4)
    loss.negative_share = 0.0

    config.optimizer = optimizer = ConfigDict()
    optimizer.learning_rate = 1e-3
    optimizer.warmup_steps = 10
    optimizer.ema_decay = 0.99

    config.loop = loop = ConfigDict()
    loop.steps = 500
    loop.log_every = 20
    loop.save_every = 100
    return config
