"""A stage that trains an adapter: the transformer is frozen, in the compute dtype or in 8 bits.

``adapted`` makes it of a stage that trains the whole transformer. Trained parameters, average and
optimizer state are the adapter's alone; checkpoints hold nothing else. The frozen transformer is
read from ``init_from`` straight into its shards, so that no device holds it twice.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from skipsr_jax.checkpoints import store
from skipsr_jax.config import from_json, to_json
from skipsr_jax.data.batch import Batch
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.quantized import UNQUANTIZED
from skipsr_jax.models.adapter import (
    fresh_adapter,
    frozen_shapes,
    joined,
    with_dropout,
)
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import Params, to_dict
from skipsr_jax.models.quantized_params import quantize_params
from skipsr_jax.parallel.mesh import replicated
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Metrics, Preview, Stage, Trainee
from skipsr_jax.training.transformer import TEXTS, abstract_dit
from skipsr_jax.types import Float

NAME = "adapter"
"""Of the trained parameters, and of the part of a checkpoint."""


def adapted(
    stage: Stage,
    settings: Settings,
    config: DiTConfig,
    module: DiT,
    base: Params | None = None,
) -> Stage:
    """The stage with a frozen transformer and a trained adapter.

    Args:
      stage: that trains parameters ``dit`` and ``text``, and computes with ``module``.
      settings: of the run.
      config: of the transformer.
      module: the transformer as shapes, ``with_adapter``.
      base: ``{"dit": ..., "text": ...}``, which may be shapes; replaces ``init_from``.

    Raises:
      UserError: ``init_from`` is missing or holds another transformer, or the stage is to train
        its texts.
    """
    if not stage.fixed >= TEXTS:
        raise UserError(
            "adapter.rank is above 0, so that the texts are frozen: set config.loss.train_text "
            "to False"
        )
    load = None
    if base is None:
        base, load = _open_base(settings, config, module)
    whole_loss, whole_preview = stage.loss, stage.preview

    def whole(params: Params, frozen: Params, rate: float, key: Array) -> Params:
        adapter = with_dropout(params[NAME], module, rate, key)
        return {"dit": joined(frozen["dit"], adapter), "text": frozen["text"]}

    def loss_at(rate: float) -> Callable[..., tuple[Float[Array, ""], Metrics]]:
        def loss(params: Params, frozen: Params, batch: Batch, key: Array):
            own = jax.random.fold_in(key, 1) if rate else key
            return whole_loss(whole(params, frozen, rate, own), frozen, batch, key)

        return loss

    def preview(params: Params, frozen: Params, batch: Batch, key: Array) -> Preview:
        return whole_preview(whole(params, frozen, 0.0, key), frozen, batch, key)

    dropout = settings.adapter.dropout
    trainees = (Trainee(NAME, (NAME,), loss_at(dropout)),) if dropout else ()
    return dataclasses.replace(
        stage,
        init=lambda key: {NAME: fresh_adapter(key, module)},
        loss=loss_at(0.0),
        trainees=trainees,
        frozen=stage.frozen | base,
        load=load,
        fixed=frozenset(),
        config={
            NAME: to_json(settings.adapter),
            "base": to_json(config),
            "base_checkpoint": settings.init_from,
        },
        preview=None if whole_preview is None else preview,
    )


def _open_base(
    settings: Settings, config: DiTConfig, module: DiT
) -> tuple[Params, Callable[[Mesh], Params]]:
    """The frozen transformer and texts of ``init_from`` as shapes, and what reads them.

    Raises UserError as ``adapted``.
    """
    path, adapter = settings.init_from, settings.adapter
    if not path:
        raise UserError(
            f"adapter.rank is {adapter.rank}: set --config.init_from to the checkpoint of the "
            "transformer that the adapter is for"
        )
    found = store.load_config(path)
    if "dit" not in found:
        raise UserError(f"{path}: holds no transformer")
    stored_config = from_json(DiTConfig, found["dit"], path)
    if dataclasses.replace(stored_config, remat=config.remat) != config:
        raise UserError(f"{path}: holds another transformer than config.model={settings.model}")
    stored = found.get("precision", UNQUANTIZED)
    if stored not in (UNQUANTIZED, adapter.precision):
        raise UserError(
            f"{path}: its kernels are {stored}: set config.adapter.precision={stored}, or name the "
            "checkpoint that it was exported from"
        )
    branch, dtype = store.best_branch(path), jnp.dtype(settings.dtype)
    frozen = frozen_shapes(module)
    plain = to_dict(abstract_dit(config, dtype)) if stored == UNQUANTIZED else frozen
    text = store.stored_shapes(path, branch=branch).get("text", {})
    _check_texts(text, settings, path)
    wanted = {"dit": plain, "text": text}

    def load(mesh: Mesh) -> Params:
        targets = shardings(wanted, mesh) | {"text": replicated(mesh)}
        params = store.restore_params(path, wanted, targets, dtype, branch=branch)
        if adapter.format is not None and stored == UNQUANTIZED:
            made = shardings(frozen, mesh)
            params["dit"] = quantize_params(params["dit"], frozen, adapter.format, made)
        return params

    return {"dit": frozen, "text": text}, load


def _check_texts(text: Params, settings: Settings, path: str) -> None:
    lengths = settings.loss.text_lengths
    found = tuple(text[name].shape[0] for name in ("positive", "negative") if name in text)
    if len(found) < 2:
        raise UserError(f"{path}: holds no positive and negative text embedding")
    if found != lengths:
        raise UserError(
            f"{path}: its texts have {found[0]} and {found[1]} tokens, not {lengths[0]} and "
            f"{lengths[1]}: set config.loss.text_lengths to {found}"
        )
