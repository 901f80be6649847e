"""The interface of a training stage: initial parameters, a loss, and the batches that it takes.

The loop uses nothing else of a stage; a stage uses nothing of the loop.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

from flax import nnx
from jax import Array
from jax.sharding import Mesh

from skipsr_jax.data.batch import Batch
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.packing import Packing
from skipsr_jax.data.sample import Recipe
from skipsr_jax.errors import UserError
from skipsr_jax.models.layers.initial import Buffer
from skipsr_jax.models.params import Params, flatten
from skipsr_jax.training.settings import Settings
from skipsr_jax.types import Bool, Float

Metrics = dict[str, Any]
Loss = Callable[[Params, Params, Batch, Array], tuple[Float[Array, ""], Metrics]]


class Preview(NamedTuple):
    """The composited output of a stage for a batch, for pictures and for scores.

    Attributes:
      frames: pixels in [0, 1] at the size of the truth; skipped patches have the upscaled input.
      keep: which patches the stage treated as kept: those of the batch, or its own prediction.

    Both are tuples with an array for each shape of the batch.
    """

    frames: tuple[Float[Array, "_ _ _ _ 3"], ...]
    keep: tuple[Bool[Array, "_ _ _ _"], ...]


@dataclasses.dataclass(frozen=True)
class Trainee:
    """A network with a loss, an optimizer and updates of its own, such as generator and
    discriminator.

    Attributes:
      name: of its metrics and its optimizer state.
      trains: top-level keys of the parameters that it updates; for its loss the others are
        constants.
      loss: as ``Stage.loss``.
      rate: factor on the learning rate.
    """

    name: str
    trains: tuple[str, ...]
    loss: Loss
    rate: float = 1.0


def _unchanged(params: Params) -> Params:
    return params


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage, ready to run.

    Attributes:
      init: random key -> fresh parameters, pure.
      loss: (trained parameters, frozen parameters, batch on the device, key) -> (loss, metrics).
      prepare: (frozen parameters, batch on the device, key) -> the batch with what all trainees
        need of it (latents), computed once a step and without gradients; None for no change.
      frozen: parameters that the loss reads and that are not trained; shapes of those that ``load``
        reads.
      fixed: paths of entries of the trained parameters that are not updated: buffers, and texts
        that are not trained.
      recipe: of the training batches.
      config: what a checkpoint says about the model, as JSON.
      trainees: what is updated in a step, in this order, each after the updates before it; () means
        that ``loss`` trains everything. ``loss`` is the last one's, or what it is in evaluation.
      auxiliary: top-level keys of parameters that are no part of the finished model (a
        discriminator, a teacher): ``init_from`` does not hold them, and they have no moving
        average.
      begin: (parameters, where those of ``init_from`` have replaced the fresh ones) -> parameters
        before the first step, where auxiliary ones may be copied from the model. Pure.
      phases: optimizer steps of each phase; () is one phase for the whole run. Each phase starts
        from the averages of the one before, through ``begin``, with a new optimizer state, moving
        average and learning rate schedule.
      load: mesh -> those of ``frozen`` that are shapes, sharded: for parameters that no device
        could hold twice, nor whole; None: there are none.
      preview: (trained parameters, frozen parameters, batch on the device, key) -> Preview, pure;
        None for a stage without pictures.
      flops: batch on the host -> model operations of a step on it (skipsr_jax.models.flops).
    """

    init: Callable[[Array], Params]
    loss: Loss
    frozen: Params
    fixed: frozenset[str]
    recipe: Recipe
    config: dict[str, Any]
    prepare: Callable[[Params, Batch, Array], Batch] | None = None
    trainees: tuple[Trainee, ...] = ()
    auxiliary: frozenset[str] = frozenset()
    begin: Callable[[Params], Params] = _unchanged
    phases: tuple[int, ...] = ()
    load: Callable[[Mesh], Params] | None = None
    preview: Callable[[Params, Params, Batch, Array], Preview] | None = None
    flops: Callable[[Batch], float] | None = None

    def model(self, params: Params) -> Params:
        """``params`` without the auxiliary ones."""
        return {name: part for name, part in params.items() if name not in self.auxiliary}

    @property
    def starts(self) -> tuple[int, ...]:
        """The step at which each phase begins: 0, ..."""
        return tuple(itertools.accumulate((0, *self.phases[:-1])))

    def progress(self, step: int, steps: int) -> tuple[int, float]:
        """Steps done in the phase of ``step``, and which fraction of it they are.

        ``steps``: optimizer steps of the whole run.
        """
        ends = (*self.starts[1:], steps)
        start, end = [span for span in zip(self.starts, ends, strict=True) if span[0] <= step][-1]
        return step - start, (step - start) / (end - start)

    @property
    def samples_per_pack(self) -> int:
        """Samples in one sequence of tokens; 1 for stages without token plans."""
        return 1 if self.recipe.packing is None else self.recipe.packing.samples


def recipe_of(settings: Settings, masks: bool, packing: Packing | None = None) -> Recipe:
    """The recipe of the batches that the section ``data`` describes.

    Args:
      settings: of the run.
      masks: whether batches have the masks of Eq. 1.
      packing: how tokens are packed, for stages that train a transformer.

    Raises:
      UserError: ``data.pack`` contradicts other settings.
    """
    data = settings.data
    mixed = tuple(ClipShape(data.batch * samples, *size) for samples, *size in data.pack)
    if mixed:
        if packing is None:
            raise UserError(
                f"stage {settings.stage} makes no sequences of tokens: set data.pack to ()"
            )
        if packing.samples > 1 or data.image_share:
            raise UserError(
                "data.pack says what a sequence holds, pictures too: set loss.samples_per_pack to "
                "1 and data.image_share to 0"
            )
        packing = dataclasses.replace(packing, samples=sum(shape[0] for shape in data.pack))
    return Recipe(
        video=ClipShape(data.batch, data.frames, *data.crop),
        image=ClipShape(data.image_batch, 1, *data.image_crop),
        image_share=data.image_share,
        pan_share=data.pan_share,
        soft_share=data.soft_share,
        strict=data.strict,
        degradation=data.pairs,
        largest_step=data.largest_step,
        factors=data.factors,
        masks=masks,
        packing=packing,
        cache=data.cache or None,
        seed=settings.seed,
        mixed=mixed,
    )


def buffers(module: nnx.Module, prefix: str) -> frozenset[str]:
    """Paths of the module's buffers, under ``prefix``."""
    return frozenset(
        f"{prefix}/{path}" for path in flatten(nnx.to_pure_dict(nnx.state(module, Buffer)))
    )
