"""Floating-point operations of the networks, by count, and what devices can do at most.

A multiply-add is two operations. Counted are matrix products, convolutions and attention; norms,
activations and gathers are not, nor is what a rematerialised backward pass computes again. So the
ratio to the device's peak is the "model FLOPs utilisation" of Chowdhery et al. 2022 (PaLM,
appendix B). The transformer is counted from its token plan: skipped tokens and empty rows of a
bucket count nothing. Convolutional networks are counted from their traced program.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from skipsr_jax.geometry import PATCH_AREA, SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.dit.mlp import gated_hidden
from skipsr_jax.models.dit.modulation import FREQUENCIES
from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.models.vae import VAE
from skipsr_jax.tokens.plan import TokenPlan

BACKWARD = 2.0
"""A backward pass through trained layers costs two forwards: gradients of inputs and of weights."""
BACKWARD_FROZEN = 1.0
"""Through frozen layers: gradients of inputs alone."""

PEAK_BF16 = (
    (r"H100 PCIe", 756e12),
    (r"H100 NVL", 835e12),
    (r"H100|H200", 989e12),
    (r"A100", 312e12),
    (r"TPU v6", 918e12),
    (r"TPU v5 ?(lite|e)", 197e12),
    (r"TPU v5", 459e12),
    (r"TPU v4$", 275e12),
)
"""Dense bfloat16 operations per second by ``device_kind``, first match. Sources: NVIDIA's data
sheets of H100, H200 and A100; Google Cloud's pages of TPU v4, v5e, v5p and v6e."""


def peak_flops(device_kind: str) -> float | None:
    """Of one device in bfloat16, per second; None for a kind that is not in the table."""
    found = (peak for pattern, peak in PEAK_BF16 if re.search(pattern, device_kind))
    return next(found, None)


class DitFlops(NamedTuple):
    """Operations of one forward pass of the transformer."""

    linear: float
    attention: float

    @property
    def total(self) -> float:
        """Both."""
        return self.linear + self.attention


def dit_flops(config: DiTConfig, plan: TokenPlan) -> DitFlops:
    """One forward pass over all packs of a plan (on the host)."""
    d, inner = config.width, config.heads * config.head_dim
    if config.gated_mlp:
        feed_forward = 3 * d * gated_hidden(d, config.expand_ratio)
    else:
        feed_forward = 2 * d * d * config.expand_ratio
    layer = d * 3 * inner + inner * d + feed_forward
    video, text = int(plan.valid.sum()), int(plan.text_length.sum())
    embedded = text if config.text_width != d else 0
    products = (
        (video + text) * config.layers * layer
        + video * d * PATCH_AREA * (config.in_channels + config.out_channels)
        + embedded * config.text_width * d
        + plan.text_length.size * d * (2 * FREQUENCIES + d + 6 * d)
    )
    lengths = np.diff(np.asarray(plan.layout.cu_seqlens, np.float64), axis=-1)
    regular, shifted = np.square(lengths).sum(axis=(0, 2))
    pairs = regular * -(-config.layers // 2) + shifted * (config.layers // 2)
    return DitFlops(2.0 * products, 4.0 * inner * float(pairs))


def _inner(value: Any) -> list[Jaxpr]:
    """The programs in a parameter of an operation."""
    if isinstance(value, ClosedJaxpr):
        return [value.jaxpr]
    if isinstance(value, Jaxpr):
        return [value]
    if isinstance(value, (tuple, list)):
        return [found for part in value for found in _inner(part)]
    return []


def _of_program(program: Jaxpr) -> float:
    total = 0.0
    for operation in program.eqns:
        name, params = operation.primitive.name, operation.params
        if name == "pallas_call":  # of one program of its grid, whose operations write to memory
            continue
        out = operation.outvars[0].aval if operation.outvars else None
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = operation.invars[0].aval.shape
            total += 2.0 * out.size * np.prod([left[axis] for axis in contracted])
        elif name == "conv_general_dilated":
            kernel = operation.invars[1].aval
            features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * out.size * kernel.size / features
        elif name == "while":
            raise ValueError("a loop of unknown length: its operations cannot be counted")
        else:
            parts = [_of_program(part) for value in params.values() for part in _inner(value)]
            if parts and name == "cond":  # branches are ways to one result
                total += max(parts)
            else:
                total += params.get("length", 1) * sum(parts) if name == "scan" else sum(parts)
    return total


def traced_flops(function: Callable[..., Any], *args: Any) -> float:
    """Matrix products and convolutions of ``function(*args)``; arguments may be shapes.

    Runs and compiles nothing. What Pallas kernels multiply is not counted. Raises ValueError when
    the program has a loop of unknown length.
    """
    return _of_program(jax.make_jaxpr(function)(*args).jaxpr)


def vae_flops(vae: VAE, frames: tuple[int, int, int, int]) -> tuple[float, float]:
    """Encoding and decoding clips of (batch, frames, height, width), one forward pass of each."""
    b, f, h, w = frames
    params = to_dict(vae)
    clip = jax.ShapeDtypeStruct((b, f, h, w, 3), np.float32)
    latents = (
        b,
        (f - 1) // TIME_FACTOR + 1,
        h // SPACE_FACTOR,
        w // SPACE_FACTOR,
        vae.config.latent_channels,
    )
    latent = jax.ShapeDtypeStruct(latents, np.float32)
    encode = traced_flops(lambda p, x: bind(vae, p).encode(x)[0], params, clip)
    if vae.config.residual_decoder:
        decode = traced_flops(
            lambda p, z, x: bind(vae, p).decode(z, None, x)[0], params, latent, clip
        )
    else:
        decode = traced_flops(lambda p, z: bind(vae, p).decode(z)[0], params, latent)
    return encode, decode
