"""The settings of one training run, as frozen dataclasses of checked numbers.

``complete`` adds the defaults of all keys to the ConfigDict of a file in configs/, and
``from_config`` turns it into ``Settings``; nothing below train.py sees a ConfigDict. The section
``loss`` belongs to the stage. Invariant: a ``Settings`` that exists is in range.
"""

import dataclasses
import math
from typing import Any, Literal

from ml_collections import ConfigDict

from skipsr_jax import config as configs
from skipsr_jax.config import require, require_between, require_one_of
from skipsr_jax.data.degradation.levels import RealWorld
from skipsr_jax.media.resize import Method
from skipsr_jax.models.dit import REMAT_POLICIES, DiTConfig
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.parallel.mesh import MeshSizes
from skipsr_jax.types import DTYPES


@dataclasses.dataclass(frozen=True)
class Data:
    """Where clips come from and how they are cut. Crops are (height, width), multiples of 16.

    Attributes:
      root: folders with videos, pictures and frame folders, or datasets by skipsr_jax.data.build.
      eval_root: held-out folders, () for no evaluation.
      eval_frames, eval_crop: what ``loop.quality_every`` measures of each held-out clip.
      cache: folder for decoded clips, shared by all workers; "" decodes anew each time.
      workers: processes that prepare batches; 0 prepares them in threads of this process.
      batch, frames, crop: of clip batches (frames = 4k + 1). batch counts all hosts together.
      image_batch, image_crop: of picture batches.
      image_share: share of the batches that are pictures.
      pack: (samples, frames, height, width) of each shape in one sequence of tokens, for stages
        that train a transformer; () for sequences of one shape. With it ``batch`` counts sequences,
        and ``frames``, ``crop``, ``image_batch`` and ``image_crop`` say nothing.
      pan_share: share of the clips that are windows moving over pictures.
      soft_share: share of the samples whose truth is enlarged, up to 1.6 times: soft footage.
      degradation: what makes the low-quality pair: a plain downsampling method, or "real".
      real: the levels of "real", see skipsr_jax.data.degradation.levels.
    """

    root: tuple[str, ...] = ()
    batch: int = 8
    frames: int = 17
    crop: tuple[int, int] = (256, 256)
    eval_root: tuple[str, ...] = ()
    eval_frames: int = 17
    eval_crop: tuple[int, int] = (256, 448)
    cache: str = ""
    workers: int = 8
    image_batch: int = 16
    image_crop: tuple[int, int] = (256, 256)
    image_share: float = 0.0
    pack: tuple[tuple[int, int, int, int], ...] = ()
    pan_share: float = 0.3
    soft_share: float = 0.0
    degradation: Literal[Method, "real"] = "area"
    real: RealWorld = dataclasses.field(default_factory=RealWorld)

    def __post_init__(self):
        require(bool(self.root), "root", self.root, "one folder or more")
        require_between("workers", self.workers, 0, 256)
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require(self.image_batch >= 1, "image_batch", self.image_batch, "at least 1")
        for name in ("frames", "eval_frames"):
            frames = getattr(self, name)
            good = frames >= 1 and frames % 4 == 1
            require(good, name, frames, "4k + 1 (1, 5, 9, 17, ...)")
        for name in ("crop", "image_crop", "eval_crop"):
            crop = getattr(self, name)
            good = all(side >= 16 and side % 16 == 0 for side in crop)
            require(good, name, crop, "(height, width) in multiples of 16")
        for shape in self.pack:
            samples, frames, *crop = shape
            good = samples >= 1 and frames >= 1 and frames % 4 == 1
            good = good and all(side >= 16 and side % 16 == 0 for side in crop)
            rule = "samples, 4k + 1 frames, height and width in multiples of 16, for each shape"
            require(good, "pack", self.pack, rule)
        for name in ("image_share", "pan_share", "soft_share"):
            require_between(name, getattr(self, name), 0, 1)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How parameters follow gradients: linear warm-up, then a cosine down to zero.

    The cosine runs over the steps or over the time limit, whichever is further along, so a run cut
    by ``loop.max_seconds`` is annealed too.

    Attributes:
      kind: "rmsprop" is "adamw" with b1 = 0 in the same numbers, without room for a first moment.
      weight_decay: acts on kernels only.
      clip_norm: largest norm of a player's gradient; 0: gradients are taken as they are.
      accumulate: micro-batches that a batch is cut into, one after the other in the memory of one;
        their gradients are averaged. Numbers that a stage states per batch then hold for each.
    """

    learning_rate: float = 1e-4
    kind: Literal["adamw", "rmsprop"] = "adamw"
    warmup_steps: int = 100
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    b1: float = 0.9
    b2: float = 0.99
    ema_decay: float = 0.999
    accumulate: int = 1

    def __post_init__(self):
        rate = self.learning_rate
        require(0 < rate < 1, "learning_rate", rate, "above 0 and below 1")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "at least 0")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        good = self.clip_norm >= 0 and math.isfinite(self.clip_norm)
        require(good, "clip_norm", self.clip_norm, "at least 0 (0: off)")
        require(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")
        require(self.kind == "adamw" or self.b1 == 0, "b1", self.b1, f"0 with {self.kind}")
        for name in ("b1", "b2", "ema_decay"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "from 0 to below 1")


@dataclasses.dataclass(frozen=True)
class Loop:
    """How long, and what is written when.

    Attributes:
      steps: optimizer steps in all.
      max_seconds: stop, annealed and saved, after about this much time over all restarts; 0: never.
      log_every, save_every: in steps.
      eval_every: steps between evaluations on ``data.eval_root``; 0: none.
      eval_batches: batches of one evaluation.
      quality_every: steps between measures of PSNR and SSIM on ``data.eval_root``, skipped, dense
        and bicubic; 0: none.
      quality_clips: at most so many clips, and as many pictures.
      panel_every: steps between pictures of what the stage makes, of ``data.eval_root`` if given,
        else of the batch at hand; 0: none.
      keep: how many of the last checkpoints stay.
    """

    steps: int = 20_000
    max_seconds: float = 0.0
    log_every: int = 50
    save_every: int = 1000
    eval_every: int = 0
    eval_batches: int = 4
    quality_every: int = 0
    quality_clips: int = 8
    panel_every: int = 0
    keep: int = 2

    def __post_init__(self):
        for name in ("steps", "log_every", "save_every", "eval_batches", "quality_clips", "keep"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("max_seconds", "eval_every", "quality_every", "panel_every"):
            value = getattr(self, name)
            require(value >= 0 and math.isfinite(value), name, value, "at least 0 (0: off)")


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run of train.py.

    Attributes:
      stage: which loss and step (skipsr_jax.training.stages.registry).
      model: size, a key of DIT_PRESETS.
      loss: the stage's own section, see its module.
      dtype: of matrix products and convolutions; parameters and their updates are float32.
      remat: what the transformer's backward pass finds stored, a key of REMAT_POLICIES: "full"
        keeps block inputs only, "dots" results of dense layers too, "none" everything.
      init_from: checkpoint or workdir to start the trained parameters from; "" for scratch.
      vae: checkpoint or workdir with the trained autoencoder, for the stages that need one.
      seed: of everything random.
    """

    stage: str
    data: Data = dataclasses.field(default_factory=Data)
    optimizer: Optimizer = Optimizer()
    loop: Loop = Loop()
    loss: Any = None
    model: str = "tiny"
    dtype: str = "float32"
    remat: str = "none"
    init_from: str = ""
    vae: str = ""
    mesh: MeshSizes = dataclasses.field(default_factory=MeshSizes)
    seed: int = 0

    def __post_init__(self):
        require_one_of("model", self.model, sorted(DIT_PRESETS))
        require_one_of("dtype", self.dtype, DTYPES)
        require_one_of("remat", self.remat, sorted(REMAT_POLICIES))
        require(0 <= self.seed < 2**31, "seed", self.seed, "from 0 to 2**31 - 1")
        for name in ("eval_every", "quality_every"):
            every = getattr(self.loop, name)
            good = not every or bool(self.data.eval_root)
            require(good, f"loop.{name}", every, "0, or data.eval_root name held-out folders")

    @property
    def transformer(self) -> DiTConfig:
        """The model's transformer, as this run computes it."""
        return dataclasses.replace(DIT_PRESETS[self.model], remat=self.remat)


def complete(config: ConfigDict, loss_kinds: dict[str, type]) -> ConfigDict:
    """``config`` with the defaults of all keys that it leaves out, as its stage has them."""
    base = configs.defaults(Settings)
    kind = loss_kinds.get(config.get("stage"))
    loss = {} if kind is None else configs.defaults(kind)
    return configs.complete(config, base | {"loss": loss})


def from_config(config: ConfigDict, loss_kinds: dict[str, type]) -> Settings:
    """Settings from a file's ConfigDict. ``loss_kinds``: the loss section's type for each stage.

    Raises UserError naming every key that is unknown, missing, of a wrong type or out of range.
    """
    values = config.to_dict()
    stage = values.get("stage")
    require_one_of("config.stage", stage, sorted(loss_kinds))
    loss = configs.from_config(loss_kinds[stage], values.get("loss", {}), "config.loss.")
    settings = configs.from_config(Settings, values | {"loss": None})
    return dataclasses.replace(settings, loss=loss)
