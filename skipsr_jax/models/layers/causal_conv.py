"""3D convolution over video, causal in time, with its cache as an explicit value.

A temporal kernel of k sees the k - 1 frames before the first one as copies of that first frame (not
zeros), and nothing after the last. Between slices of one clip a convolution hands over the last
k - stride input frames, the causal-conv cache. Invariant: slicing a clip anywhere the strides allow
gives the same output as one run over the whole clip.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.kernels.convolution import CHANNELS, Taps, convolve, taps_shape
from skipsr_jax.kernels.norm_silu_concat import (
    ScaleShift,
    SpacePadding,
    frames_to_cache,
    norm_silu_concat_frames,
    scale_shift_silu,
)
from skipsr_jax.kernels.quantized import Format
from skipsr_jax.models.layers.initial import drawn, filled
from skipsr_jax.types import DType, Float

Cache = Any
"""What a layer keeps between slices: arrays, tuples of caches, or () where there is nothing to
keep. None instead of a cache means that the slice is the first one of its clip."""

_SAME: SpacePadding = ((1, 1), (1, 1))

_CHANNEL_MULTIPLE = 8
"""A matrix unit takes channels in multiples of this; cuDNN fills them up with zeros."""


def _taps_as_channels(x, kernel):
    """The same convolution with its temporal taps side by side as channels, a multiple of 8."""
    taps, kh, kw, c, out = kernel.shape
    length, more = x.shape[1] - taps + 1, -taps * c % _CHANNEL_MULTIPLE

    # A sum of padded pieces, because XLA's GPU backend concatenates thin pieces slowly.
    def padded_tap(t):
        ends = (t * c, (taps - 1 - t) * c + more)
        return jnp.pad(x[:, t : t + length], ((0, 0),) * 4 + (ends,))

    flat = kernel.transpose(1, 2, 0, 3, 4).reshape(1, kh, kw, taps * c, out)
    flat = jnp.pad(flat, ((0, 0),) * 3 + ((0, more), (0, 0)))
    return sum(padded_tap(t) for t in range(taps)), flat


def _as_conv3d(x, kernel, strides, padding):
    """One rank-5 convolution: best on GPU (with ``convolution_options``) and on TPU."""
    if strides[0] == 1 < kernel.shape[0] and kernel.shape[3] < _CHANNEL_MULTIPLE:
        x, kernel = _taps_as_channels(x, kernel)  # pixels: else most channels would be zeros
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=((0, 0), *padding),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def _as_conv2d(x, kernel, strides, padding):
    """A 2D convolution of one frame after the other, with temporal taps side by side as channels.

    XLA's CPU backend runs rank-4 convolutions several times faster than its rank-5 ones, and one
    frame at a time stays in the cache.
    """
    taps, kh, kw, c, out = kernel.shape
    flat_kernel = kernel.transpose(1, 2, 0, 3, 4).reshape(kh, kw, taps * c, out)

    def one_frame(start):
        frames = jax.lax.dynamic_slice_in_dim(x, start, taps, axis=1)
        stacked = jnp.moveaxis(frames, 1, 3).reshape(x.shape[0], *x.shape[2:4], taps * c)
        return jax.lax.conv_general_dilated(
            stacked,
            flat_kernel,
            window_strides=strides[1:],
            padding=padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    starts = jnp.arange(0, x.shape[1] - taps + 1, strides[0])
    return jnp.moveaxis(jax.lax.map(one_frame, starts), 0, 1)


def conv3d(
    x: Float[Array, "b f h w i"],
    kernel: Float[Array, "kt kh kw i o"],
    strides: tuple[int, int, int] = (1, 1, 1),
    padding: SpacePadding = _SAME,
) -> Float[Array, "b f_out h_out w_out o"]:
    """Convolution without padding in time and zero padding ((top, bottom), (left, right)) in space.

    A single frame under several taps stands for copies of it, one for each: their sum is one tap.
    The form is picked when the program is lowered for a platform, so that a program compiled on a
    CPU for another machine gets that machine's form.
    """
    if x.shape[1] == 1 < kernel.shape[0]:
        kernel = kernel.astype(jnp.float32).sum(axis=0, keepdims=True).astype(kernel.dtype)
        strides = (1, *strides[1:])
    if kernel.shape[:3] == (1, 1, 1) and strides == (1, 1, 1):
        return x @ kernel[0, 0, 0]

    # The checkpoint keeps x and kernel alone for the backward pass; without it each form's
    # intermediates would be kept (the stacked taps of the CPU's form: three times the input).
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def run(x, kernel):
        fixed = {"strides": strides, "padding": padding}
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=functools.partial(_as_conv2d, **fixed),
            default=functools.partial(_as_conv3d, **fixed),
        )

    return run(x, kernel)


def with_cached_frames(
    x: Float[Array, "b f h w c"], cache: Cache, count: int
) -> Float[Array, "b f_out h w c"]:
    """x behind the ``count`` frames before it, in x's dtype.

    They are those of the cache, or copies of x's first frame at the start of a clip (None). A
    single frame without a cache is returned as it is: see ``conv3d``.
    """
    if cache is None and x.shape[1] == 1:
        return x
    before = jnp.repeat(x[:, :1], count, axis=1) if cache is None else cache
    return jnp.concatenate([before.astype(x.dtype), x], axis=1)


def _behind_cache(
    x: Float[Array, "b f h w c"],
    cache: Cache,
    taps: int,
    step: int,
    padding: SpacePadding,
    scale_shift: ScaleShift | None,
    dtype: DType | None = None,
) -> tuple[Float[Array, "b f_out h_out w_out c"], Cache, SpacePadding]:
    """The input of a convolution of several taps in time, the next cache, and the padding left."""
    cached = taps - 1 if cache is None else cache.shape[1]
    length = cached + x.shape[1]
    if length < taps or (length - taps) % step:
        raise ValueError(
            f"{length} frames ({cached} of them cached) do not fill steps of {step} after the "
            f"first {taps}: give 1 + k {step} frames first, then k {step}"
        )
    with jax.named_scope("norm_silu_concat"):
        if cache is not None:
            return norm_silu_concat_frames(x, scale_shift, cache, padding, dtype)
        x = with_cached_frames(scale_shift_silu(x, scale_shift, dtype), None, cached)
        return x, frames_to_cache(x, taps - step), padding


def causal_conv3d(
    x: Float[Array, "b f h w i"],
    kernel: Float[Array, "kt kh kw i o"],
    cache: Cache = None,
    strides: tuple[int, int, int] = (1, 1, 1),
    padding: SpacePadding = _SAME,
    scale_shift: ScaleShift | None = None,
) -> tuple[Float[Array, "b f_out h_out w_out o"], Cache]:
    """The next output frames, and the cache: the last kt - stride input frames.

    ``cache``: what the slice before returned; None: x starts a clip. ``scale_shift``: applied to x
    first, and then SiLU. Raises ValueError when the frames do not fill whole strides.
    """
    taps, step = kernel.shape[0], strides[0]
    if taps == 1:
        return conv3d(scale_shift_silu(x, scale_shift), kernel, strides, padding), ()
    x, cache, padding = _behind_cache(x, cache, taps, step, padding, scale_shift)
    return conv3d(x, kernel, strides, padding), cache


class CausalConv3d(nnx.Module):
    """``causal_conv3d`` with a kernel (t, h, w, in, out) and a bias."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel_size: tuple[int, int, int] = (3, 3, 3),
        *,
        strides: tuple[int, int, int] = (1, 1, 1),
        padding: SpacePadding | None = None,
        kernel_init: jax.nn.initializers.Initializer | None = None,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
    ):
        init = kernel_init or jax.nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3), out_axis=4)
        shape = (*kernel_size, features_in, features_out)
        self.kernel = drawn(init, rngs, shape, param_dtype)
        self.bias = filled(0.0, rngs, (features_out,), param_dtype)
        half_h, half_w = kernel_size[1] // 2, kernel_size[2] // 2
        self.padding = padding or ((half_h, half_h), (half_w, half_w))
        self.kernel_size, self.strides = kernel_size, strides
        self.dtype = dtype

    @property
    def input_dtype(self) -> DType:
        """Of what ``convolve`` takes, and of the cache."""
        return self.dtype

    def convolve(
        self, x: Float[Array, "b f h w i"], padding: SpacePadding
    ) -> Float[Array, "b f_out h_out w_out o"]:
        """The convolution with its bias, of frames that are behind those before them."""
        kernel = self.kernel[...].astype(self.dtype)
        return conv3d(x, kernel, self.strides, padding) + self.bias[...].astype(self.dtype)

    def __call__(
        self,
        x: Float[Array, "b f h w i"],
        cache: Cache = None,
        scale_shift: ScaleShift | None = None,
    ) -> tuple[Float[Array, "b f_out h_out w_out o"], Cache]:
        """``cache`` and ``scale_shift`` as in ``causal_conv3d``."""
        kernel, x = self.kernel[...].astype(self.dtype), x.astype(self.dtype)
        y, cache = causal_conv3d(x, kernel, cache, self.strides, self.padding, scale_shift)
        return y + self.bias[...].astype(self.dtype), cache


class QuantizedCausalConv3d(nnx.Module):
    """A causal 3 x 3 x 3 convolution for inference with e4m3 products, same padding in space.

    Its input is converted to e4m3 by the pass that normalises it, and so is its cache. Parameters:
    ``quantized_taps``, ``taps_scale`` (``kernels.convolution.Taps``), which a trained kernel gives
    (``models.quantized_params``; they begin as 0 and 1), and ``bias``. The kernel for GPUs takes
    multiples of ``kernels.convolution.CHANNELS`` channels, the reference any.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        rngs: nnx.Rngs,
        format: Format,
        dtype: DType,
        param_dtype: DType,
    ):
        shape = taps_shape(features_in, features_out)
        self.quantized_taps = filled(0.0, rngs, shape, format.dtype)
        self.taps_scale = filled(1.0, rngs, (features_out,), param_dtype)
        self.bias = filled(0.0, rngs, (features_out,), param_dtype)
        self.kernel_size, self.strides, self.padding = (3, 3, 3), (1, 1, 1), _SAME
        self.dtype = dtype

    @property
    def input_dtype(self) -> DType:
        """As of ``CausalConv3d``."""
        return self.quantized_taps.dtype

    def convolve(
        self, x: Float[Array, "b f h w i"], padding: SpacePadding
    ) -> Float[Array, "b f_out h_out w_out o"]:
        """As of ``CausalConv3d``. A single frame stands for three equal ones."""
        if x.shape[1] == 1:
            x = jnp.repeat(x, 3, axis=1)
        taps = Taps(self.quantized_taps[...], self.taps_scale[...])
        (rows, _), (columns, _) = padding
        return convolve(x, taps, self.bias[...], padding=(rows, columns), dtype=self.dtype)

    def __call__(
        self,
        x: Float[Array, "b f h w i"],
        cache: Cache = None,
        scale_shift: ScaleShift | None = None,
    ) -> tuple[Float[Array, "b f h w o"], Cache]:
        """``cache`` and ``scale_shift`` as in ``causal_conv3d``."""
        x = x.astype(self.dtype)
        x, cache, padding = _behind_cache(
            x, cache, 3, 1, self.padding, scale_shift, self.input_dtype
        )
        return self.convolve(x, padding), cache


AnyCausalConv = CausalConv3d | QuantizedCausalConv3d


def causal_conv(
    features_in: int,
    features_out: int,
    *,
    rngs: nnx.Rngs,
    dtype: DType,
    param_dtype: DType,
    format: Format | None = None,
) -> AnyCausalConv:
    """A 3 x 3 x 3 convolution with products in ``format`` where its channels allow them.

    ``format``: fp8, or None: products are in ``dtype``.
    """
    kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
    if format is None or features_in % CHANNELS or features_out % CHANNELS:
        return CausalConv3d(features_in, features_out, **kinds)
    return QuantizedCausalConv3d(features_in, features_out, format=format, **kinds)
