"""The public function, and the order in which implementations are tried.

Between two causal convolutions lies one pass over memory: normalise, activate, put the frames
before in front, and remember the last ones.
"""

import functools

import jax
from jax import Array

from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.norm_silu_concat.frames import triton as pallas_triton
from skipsr_jax.kernels.norm_silu_concat.frames import xla
from skipsr_jax.kernels.norm_silu_concat.frames.problem import Join, SpacePadding
from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine
from skipsr_jax.kernels.target import current_target
from skipsr_jax.types import Float

# Fastest first; the last one runs everywhere.
IMPLEMENTATIONS = {
    "pallas_triton": Implementation(pallas_triton.supported, pallas_triton.join_frames),
    "xla": Implementation(everywhere, xla.join_frames),
}


def _beyond_symmetric(padding):
    """What each side has more behind than before, and what remains without it."""
    ends = tuple(max(0, behind - before) for before, behind in padding)
    rest = tuple((a, b - end) for (a, b), end in zip(padding, ends, strict=True))
    return ends, rest


def join_frames(
    x: Float[Array, "b f h w c"],
    affine: Affine | None,
    past: Float[Array, "b p h w c"],
    padding: SpacePadding,
) -> tuple[Float[Array, "b g v u c"], Float[Array, "b p h w c"], SpacePadding]:
    """x behind its past, in its dtype, and what is to be remembered: the last p frames of that.

    Args:
      x: f new frames.
      affine: the map before the silu that x goes through; None: x goes as it is.
      past: the p frames before, as they went into the convolution.
      padding: that of the convolution.

    Returns:
      g = p + f frames, with what a GPU's convolution would have to put around them by a copy (it
      takes no more padding behind than before); the last p of them, without; and the padding that
      is left to the convolution.
    """
    b, f, h, w, c = x.shape
    mesh = jax.sharding.get_abstract_mesh()
    devices = 1 if mesh.empty else mesh.size
    ends, rest = _beyond_symmetric(padding)
    join = Join(b, f, h + ends[0], w + ends[1], ends, c, past.shape[1], x.dtype, devices)
    name, refused = first_supported(IMPLEMENTATIONS, join, current_target())
    log_choice("frames are joined by", name, refused)
    if name == "xla":  # which may be for any machine, or for many
        ends, rest = (0, 0), padding
    return *_run(name, ends, x, affine, past), rest


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(name, ends, x, affine, past):
    return IMPLEMENTATIONS[name].run(x, affine, past, ends)


def _forward(name, ends, x, affine, past):
    return _run(name, ends, x, affine, past), (x, affine, past)


def _backward(name, ends, saved, cotangents):
    _, back = jax.vjp(functools.partial(xla.join_frames, ends=ends), *saved)
    return back(cotangents)


_run.defvjp(_forward, _backward)
