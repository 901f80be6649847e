"""Layers of the light coder: 2-D convolutions, and residual blocks with a memory of one frame.

There is no norm and no attention, so a pixel depends on a halo of pixels and on frames before.
Layers take pictures (b, h, w, c); ``each_frame`` runs them on frames.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.models.layers.initial import drawn, filled
from skipsr_jax.types import DType, Float


def _frame_by_frame(function: Callable[..., Array], *inputs: Array) -> Array:
    y = jax.lax.map(lambda frames: function(*frames), [jnp.moveaxis(x, 1, 0) for x in inputs])
    return jnp.moveaxis(y, 0, 1)


def _all_at_once(function: Callable[..., Array], *inputs: Array) -> Array:
    y = function(*(x.reshape(-1, *x.shape[2:]) for x in inputs))
    return y.reshape(*inputs[0].shape[:2], *y.shape[1:])


def each_frame(
    function: Callable[..., Array], *inputs: Float[Array, "b f _ _ _"]
) -> Float[Array, "b f h_out w_out o"]:
    """``function`` of the pictures (b, h, w, c) at each frame of the inputs.

    A CPU runs frame by frame, which stay in its caches, and there the order of a convolution's
    sums depends on the batch. Other devices run all frames as one batch. The backward pass computes
    the intermediates again: else it would keep those of both forms.
    """

    @jax.checkpoint
    def run(*inputs: Array) -> Array:
        return jax.lax.platform_dependent(
            *inputs,
            cpu=lambda *inputs: _frame_by_frame(function, *inputs),
            default=lambda *inputs: _all_at_once(function, *inputs),
        )

    return run(*inputs)


def crop(x: Float[Array, "*frames h w c"], margin: int) -> Float[Array, "*frames h_out w_out c"]:
    """``x`` without ``margin`` pixels at each side."""
    height, width = x.shape[-3:-1]
    return x[..., margin : height - margin, margin : width - margin, :]


def _conv(x: Array, kernel: Array, padding: str) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


class Conv2d(nnx.Module):
    """A convolution with a kernel (size, size, in, out) and a bias.

    ``padding``: "SAME" fills up with zeros; "VALID" makes pictures size - 1 pixels smaller. XLA's
    CPU backend (jax 0.10) takes 2 to 9 times as long for "VALID" as for "SAME" at most widths, so
    there the border is cut off afterwards.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        size: int = 3,
        padding: str = "VALID",
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
        kernel_init: jax.nn.initializers.Initializer | None = None,
    ):
        init = kernel_init or jax.nn.initializers.he_normal(in_axis=(0, 1, 2), out_axis=3)
        shape = (size, size, features_in, features_out)
        self.kernel = drawn(init, rngs, shape, param_dtype)
        self.bias = filled(0.0, rngs, (features_out,), param_dtype)
        self.padding, self.dtype = padding, dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h_out w_out o"]:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        margin = kernel.shape[0] // 2 if self.padding == "VALID" else 0
        y = jax.lax.platform_dependent(
            x.astype(self.dtype),
            cpu=lambda x: crop(_conv(x, kernel, "SAME"), margin),
            default=lambda x: _conv(x, kernel, self.padding),
        )
        return y + bias


_RESIDUAL_INIT = jax.nn.initializers.variance_scaling(0.02, "fan_in", "normal", (0, 1, 2), 3)
"""A hundredth of the variance of "he_normal": blocks begin near the identity.

Blocks that double the variance of their input could be driven, within a few steps, to give zeros
for every input. Then no gradient reaches them or what lies before them, and the decoder does not
depend on the latent."""


class Block(nnx.Module):
    """relu(x + conv(relu(conv(x)))); with ``memory`` the first convolution takes the frame before
    beside x. Each "VALID" convolution takes a pixel off each side, ``SHRINK`` together."""

    SHRINK = 2

    def __init__(
        self,
        features: int,
        memory: bool,
        padding: str,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
    ):
        kinds = {"padding": padding, "rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.conv1 = Conv2d((2 if memory else 1) * features, features, **kinds)
        self.conv2 = Conv2d(features, features, kernel_init=_RESIDUAL_INIT, **kinds)
        self.shrink = self.SHRINK if padding == "VALID" else 0

    def __call__(
        self, x: Float[Array, "b h w c"], before: Float[Array, "b h w c"] | None = None
    ) -> Float[Array, "b h_out w_out c"]:
        """``before``: the frame before x, of a block with memory."""
        inputs = x if before is None else jnp.concatenate([before, x], axis=-1)
        y = self.conv2(jax.nn.relu(self.conv1(inputs)))
        return jax.nn.relu(crop(x, self.shrink) + y)


def behind(
    before: Float[Array, "b 1 h w c"] | None, x: Float[Array, "b f h w c"]
) -> Float[Array, "b f_out h w c"]:
    """``x`` behind the frame before it; at the start of a clip, behind a copy of its first one."""
    before = x[:, :1] if before is None else before
    return jnp.concatenate([before, x], axis=1)


def with_memories(
    blocks: nnx.List, x: Float[Array, "b t h w c"], memories: tuple[Array, ...] | None
) -> tuple[Float[Array, "b t h w c"], tuple[Array, ...]]:
    """The blocks with memory, one after the other, and the last frame that each of them took.

    ``memories``: what the slice before returned; None: x starts a clip.
    """
    last = []
    for block, memory in zip(blocks, memories or (None,) * len(blocks), strict=True):
        last.append(x[:, -1:])
        x = each_frame(block, x, behind(memory, x)[:, :-1])
    return x, tuple(last)
