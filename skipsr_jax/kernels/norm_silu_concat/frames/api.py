"""The public function for whole frames, and the order in which implementations are tried."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.norm_silu_concat.frames import triton as pallas_triton
from skipsr_jax.kernels.norm_silu_concat.frames import xla
from skipsr_jax.kernels.norm_silu_concat.frames.xla import EndPadding, FramesProblem, SpacePadding
from skipsr_jax.kernels.norm_silu_concat.scale_shift import ScaleShift
from skipsr_jax.kernels.target import current_target
from skipsr_jax.types import DType, Float


@dataclasses.dataclass(frozen=True)
class FramesImplementation(Implementation):
    """``pads``: whether it appends end padding, which else is left to the convolution.

    The XLA version does not: its program may be for any machine, or for many devices.
    """

    pads: bool = False


# Fastest first; the last one runs everywhere.
IMPLEMENTATIONS = {
    "pallas_triton": FramesImplementation(
        pallas_triton.supported, pallas_triton.norm_silu_concat, pads=True
    ),
    "xla": FramesImplementation(everywhere, xla.norm_silu_concat),
}


def _split_end_padding(padding: SpacePadding) -> tuple[EndPadding, SpacePadding]:
    """How much more padding each axis has at its end than at its start, and the rest."""
    ends = tuple(max(0, end - start) for start, end in padding)
    rest = tuple((a, b - end) for (a, b), end in zip(padding, ends, strict=True))
    return ends, rest


def norm_silu_concat_frames(
    x: Float[Array, "b f h w c"],
    scale_shift: ScaleShift | None,
    cache: Float[Array, "b cached h w c"],
    padding: SpacePadding,
    dtype: DType | None = None,
) -> tuple[Float[Array, "b f_out h_out w_out c"], Float[Array, "b cached h w c"], SpacePadding]:
    """Normalised and activated frames behind their cache, and the next cache.

    Args:
      x: f new frames.
      scale_shift: applied to x before the SiLU; None: x is concatenated as it is.
      cache: the frames before, as the convolution took them.
      padding: that of the convolution.
      dtype: of the result and the next cache: x's (None), or e4m3.

    Returns:
      The cached frames and then the new ones, with the end padding that a GPU's convolution would
      have to append by a copy (it takes no more padding at an axis' end than at its start); the
      last frames of that without padding, as many as ``cache`` holds; and the padding that is left
      to the convolution.
    """
    b, f, h, w, c = x.shape
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size
    ends, rest = _split_end_padding(padding)
    dtype = jnp.dtype(x.dtype if dtype is None else dtype)
    problem = FramesProblem(
        b, f, h + ends[0], w + ends[1], ends, c, cache.shape[1], x.dtype, devices, dtype
    )
    name, refused = first_supported(IMPLEMENTATIONS, problem, current_target())
    log_choice("norm, SiLU and concatenation of frames run on", name, refused)
    if not IMPLEMENTATIONS[name].pads:
        ends, rest = (0, 0), padding
    return *_run(name, ends, dtype, x, scale_shift, cache), rest


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _run(name, end_padding, dtype, x, scale_shift, cache):
    return IMPLEMENTATIONS[name].run(x, scale_shift, cache, end_padding, dtype)


def _forward(name, end_padding, dtype, x, scale_shift, cache):
    return _run(name, end_padding, dtype, x, scale_shift, cache), (x, scale_shift, cache)


def _backward(name, end_padding, dtype, saved, cotangents):
    run = functools.partial(xla.norm_silu_concat, end_padding=end_padding, dtype=dtype)
    _, pull = jax.vjp(run, *saved)
    return pull(cotangents)


_run.defvjp(_forward, _backward)
