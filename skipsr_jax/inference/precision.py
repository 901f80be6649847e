"""The precision of the transformer's products in a run, and its parameters in that precision.

A checkpoint's config has the key ``precision`` where kernels are stored quantised (by
``checkpoints.export``); else they are quantised when they are loaded.
"""

from typing import Any

from jax.sharding import Mesh

from skipsr_jax.config import value_text
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.quantized import FORMATS, PRECISIONS, UNQUANTIZED, refusal
from skipsr_jax.kernels.target import current_target
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import Params, abstract, to_dict
from skipsr_jax.models.quantized_params import dequantize_params, quantize_params
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.types import DType


def stored_precision(config: dict[str, Any], source: str) -> str:
    """The precision of a checkpoint's kernels, from its config.

    Raises UserError for one that is unknown here.
    """
    stored = config.get("precision", UNQUANTIZED)
    if stored not in PRECISIONS:
        raise UserError(
            f"{source} has {value_text(stored)} kernels; this code knows {', '.join(FORMATS)}"
        )
    return stored


def precision_of_run(asked: str, stored: str, source: str, any_device: bool = False) -> str:
    """The precision of a run's products.

    Args:
      asked: config.precision; auto: that of the checkpoint.
      stored: that of the checkpoint's kernels.
      any_device: also where the device has no matrix unit for it, for tests.

    Raises UserError where the checkpoint or the device does not have that precision.
    """
    chosen = stored if asked == "auto" else asked
    if stored not in (chosen, UNQUANTIZED) and chosen != UNQUANTIZED:
        raise UserError(
            f"config.precision={chosen}: {source} has {stored} kernels, which lack the numbers for "
            f"it: take {stored} or {UNQUANTIZED}, or the checkpoint that they were exported from"
        )
    if chosen != UNQUANTIZED and not any_device:
        reason = refusal(chosen, current_target())
        if reason is not None:
            what = f"config.precision={asked}" + (f" ({stored} kernels)" if asked == "auto" else "")
            raise UserError(f"{what}: {reason}")
    return chosen


def transformer(config: DiTConfig, precision: str, dtype: DType) -> DiT:
    """The transformer as shapes, with parameters in ``dtype`` and products of ``precision``."""
    kinds = {"dtype": dtype, "param_dtype": dtype, "format": FORMATS.get(precision)}
    return abstract(lambda rngs: DiT(config, rngs=rngs, **kinds))


def with_precision(dit: DiT, params: Params, stored: str, mesh: Mesh | None) -> Params:
    """The parameters of ``dit``, from those of a transformer of precision ``stored``.

    They are on the devices of ``mesh``; None: on the default device.
    """
    name = UNQUANTIZED if dit.format is None else dit.format.name
    if name == stored:
        return params
    if name == UNQUANTIZED:
        return dequantize_params(params, dit.dtype)
    shapes = to_dict(dit)
    sharded = None if mesh is None else shardings(shapes, mesh)
    return quantize_params(params, shapes, dit.format, sharded)
