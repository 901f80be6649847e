"""The precision of products in a run, and the networks' parameters in that precision.

``config.precision`` concerns the products in the transformer's blocks, ``config.coder_precision``
the full autoencoder's wide convolutions (``coder_format``).

A checkpoint's config has the key ``precision`` where the transformer's kernels are stored quantised
(by ``checkpoints.export``); else they are quantised when they are loaded, as the convolutions'
always are.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from skipsr_jax.config import value_text
from skipsr_jax.errors import UserError
from skipsr_jax.kernels import convolution
from skipsr_jax.kernels.convolution import CHANNELS, ConvolutionProblem
from skipsr_jax.kernels.quantized import FORMATS, PRECISIONS, UNQUANTIZED, Format, refusal
from skipsr_jax.kernels.target import current_target
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.params import Params, abstract, to_dict
from skipsr_jax.models.quantized_params import (
    dequantize_params,
    quantize_params,
    quantized_convolutions,
)
from skipsr_jax.models.vae import VAE
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.types import DType

BFLOAT16 = np.dtype(jnp.bfloat16)


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
    """The precision of the products in the transformer's blocks.

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


def coder_format(
    asked: str, coder: str, dtype: DType, devices: int = 1, any_device: bool = False
) -> Format | None:
    """The format of the products in the full autoencoder's wide convolutions; None: ``dtype``.

    Args:
      asked: config.coder_precision: bf16 or fp8.
      coder: the one that runs: full or light.
      dtype: of results.
      devices: that share each clip.
      any_device: also where no kernel multiplies e4m3 fast, or has results of that dtype, for
        tests.

    Raises UserError where fp8 cannot run.
    """
    if asked == UNQUANTIZED:
        return None
    reason, kind, target = None, np.dtype(dtype), current_target()
    if coder != "full":
        reason = (
            f"it is for the full autoencoder, and the {coder} coder runs: set config.coder=full"
        )
    elif devices > 1:
        reason = f"it runs on one device, and {devices} share each clip: leave out config.mesh"
    elif not any_device:
        if convolution.refusal(ConvolutionProblem(CHANNELS, CHANNELS, BFLOAT16), target):
            found = f"a {target.platform}"
            if target.compute_capability is not None:
                found = "one of " + ".".join(map(str, target.compute_capability))
            reason = (
                f"it needs an NVIDIA GPU of compute capability 9.x (Hopper), and this is {found}"
            )
            raise UserError(f"config.coder_precision={asked}: {reason}: take {UNQUANTIZED}")
        if kind != BFLOAT16:
            reason = f"its results are bfloat16, not {kind}: set config.dtype=bfloat16"
    if reason is not None:
        raise UserError(f"config.coder_precision={asked}: {reason}, or take {UNQUANTIZED}")
    return FORMATS[asked]


def check_wide(coder: VAE, source: str) -> None:
    """Raises UserError when no convolution of an autoencoder with fp8 products is wide enough."""
    if not quantized_convolutions(to_dict(coder)):
        raise UserError(
            f"config.coder_precision={coder.format.name}: no convolution of the autoencoder of "
            f"{source} has multiples of {CHANNELS} channels: take {UNQUANTIZED}"
        )


def with_coder_format(coder: VAE | LightCoder, params: Params, mesh: Mesh | None) -> Params:
    """The parameters of ``coder``, from those of the same network without quantised products.

    They are on the device of ``mesh``; None: on the default device.
    """
    if isinstance(coder, LightCoder) or coder.format is None:
        return params
    shapes = to_dict(coder)
    return quantize_params(params, shapes, coder.format, mesh and shardings(shapes, mesh))


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
