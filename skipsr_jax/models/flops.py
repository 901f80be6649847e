"""Counts the floating-point operations of the networks.

A multiply-add is two operations. Matrix products, convolutions and attention are counted. Norms,
activations and gathers are not, nor is what a rematerialised backward pass computes again. The
ratio of the count per second to the device's peak (`skipsr_jax.parallel.device_peaks`) is therefore
the "model FLOPs utilisation" of Chowdhery et al. 2022 (PaLM, appendix B). The transformer is
counted from its token plan, in which skipped tokens and empty rows of a bucket cost nothing.
Convolutional networks are counted from their traced program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from skipsr_jax.geometry import PATCH_AREA, SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.dit.mlp import gated_hidden
from skipsr_jax.models.dit.modulation import FREQUENCIES
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.models.vae import VAE
from skipsr_jax.tokens.plan import TokenPlan

BACKWARD = 2.0
"""Forward passes that a backward pass through trained layers costs: it computes the gradients of
inputs and of weights."""
BACKWARD_FROZEN = 1.0
"""Forward passes that a backward pass through frozen layers costs: it computes the gradients of
inputs alone."""


class DitFlops(NamedTuple):
    """Operations of one forward pass of the transformer.

    Attributes:
      linear: in linear layers. attention: in attention.
      blocks: those of ``linear`` that are in blocks, whose products can be quantised.
    """

    linear: float
    attention: float
    blocks: float

    @property
    def total(self) -> float:
        """The operations of linear layers and of attention."""
        return self.linear + self.attention


def dit_flops(config: DiTConfig, plan: TokenPlan) -> DitFlops:
    """Counts one forward pass over all packs of a plan. Runs on the host."""
    d, inner = config.width, config.heads * config.head_dim
    if config.gated_mlp:
        feed_forward = 3 * d * gated_hidden(d, config.expand_ratio)
    else:
        feed_forward = 2 * d * d * config.expand_ratio
    layer = d * 3 * inner + inner * d + feed_forward
    video, text = int(plan.valid.sum()), int(plan.text_length.sum())
    embedded = text if config.text_width != d else 0
    in_blocks = (video + text) * config.layers * layer
    products = (
        in_blocks
        + video * d * PATCH_AREA * (config.in_channels + config.out_channels)
        + embedded * config.text_width * d
        + plan.text_length.size * d * (2 * FREQUENCIES + d + 6 * d)
    )
    lengths = np.diff(np.asarray(plan.layout.cu_seqlens, np.float64), axis=-1)
    regular, shifted = np.square(lengths).sum(axis=(0, 2))
    pairs = regular * -(-config.layers // 2) + shifted * (config.layers // 2)
    return DitFlops(2.0 * products, 4.0 * inner * float(pairs), 2.0 * in_blocks)


def _inner(value: Any) -> list[Jaxpr]:
    """The jaxprs in a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, (tuple, list)):
        return [found for part in value for found in _inner(part)]
    return []


def _operations(program: Jaxpr) -> float:
    total = 0.0
    for equation in program.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "pallas_call":  # one program of its grid, whose equations write to references
            continue
        out = equation.outvars[0].aval if equation.outvars else None
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * out.size * np.prod([left[axis] for axis in contracted])
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval
            features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * out.size * kernel.size / features
        elif name == "while":
            raise ValueError("a loop of unknown length: its operations cannot be counted")
        else:
            parts = [_operations(part) for value in params.values() for part in _inner(value)]
            if parts and name == "cond":  # one of the branches runs
                total += max(parts)
            else:
                total += params.get("length", 1) * sum(parts) if name == "scan" else sum(parts)
    return total


def traced_flops(function: Callable[..., Any], *args: Any) -> float:
    """Counts the matrix products and convolutions of ``function(*args)``.

    The arguments may be shapes: the function is traced, neither compiled nor run. Products inside
    Pallas kernels are not counted. Raises ValueError for a loop of unknown length.
    """
    return _operations(jax.make_jaxpr(function)(*args).jaxpr)


def vae_flops(coder: VAE | LightCoder, frames: tuple[int, int, int, int]) -> tuple[float, float]:
    """Counts a forward pass of the encoder and one of the decoder of a full or light coder.

    ``frames``: (batch, frames, height, width) of the clips, in pixels.
    """
    b, f, h, w = frames
    params = to_dict(coder)
    clip = jax.ShapeDtypeStruct((b, f, h, w, 3), np.float32)
    latents = (
        b,
        (f - 1) // TIME_FACTOR + 1,
        h // SPACE_FACTOR,
        w // SPACE_FACTOR,
        coder.config.latent_channels,
    )
    latent = jax.ShapeDtypeStruct(latents, np.float32)
    encode = traced_flops(lambda p, x: bind(coder, p).encode(x)[0], params, clip)
    if coder.adds_to_upscaled:
        decode = traced_flops(
            lambda p, z, x: bind(coder, p).decode(z, None, x)[0], params, latent, clip
        )
    else:
        decode = traced_flops(lambda p, z: bind(coder, p).decode(z)[0], params, latent)
    return encode, decode
