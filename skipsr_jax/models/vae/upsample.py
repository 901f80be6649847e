"""Doubling of pixels and frames, by two convolutions or by one merged convolution.

The public layer runs a pointwise convolution, moves new pixels from channels to their positions,
and runs a 3x3x3 convolution. ``Upsample`` computes the same numbers, but for rounding, in one of
five ways:

- ``_separate``: the two convolutions, for small frames and for many devices;
- ``_in_space``: the merged convolution (``upsample_kernel``), where frames do not double;
- ``_in_tiles``: the same, one spatial tile after the other;
- ``_start_in_time``, ``_continue_in_time``: the merged convolution where frames double, for the
  first slice of a clip and for later ones.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.kernels.norm_silu_concat import frames_to_cache
from skipsr_jax.models.layers.causal_conv import (
    Cache,
    CausalConv3d,
    causal_conv3d,
    conv3d,
    with_cached_frames,
)
from skipsr_jax.models.vae.spatial_tiles import map_tiles, rows_with_halo
from skipsr_jax.models.vae.upsample_kernel import (
    MergedKernel,
    add_constants,
    kernel_products,
    merged_kernel,
    positions_to_pixels,
    shift_and_sum,
)
from skipsr_jax.parallel.activations import multi_device_mesh
from skipsr_jax.types import DType, Float

_PADDING = ((1, 1), (1, 1))  # n small pixels give n + 1 positions of the merged convolution

_PIXELS_PER_CHANNEL = 8
"""Merging the kernels costs as many products as some pixels do. It is worth it from this many small
pixels for each channel on."""


def _worth_merging(x: Float[Array, "b f h w c"]) -> bool:
    """Whether to merge, which depends on what all slices of a clip share.

    Several devices run the two convolutions: the merged one has one position more than there are
    pixels, which no mesh divides.
    """
    large = x.shape[2] * x.shape[3] >= _PIXELS_PER_CHANNEL * x.shape[4]
    return large and multi_device_mesh() is None


def _repeated_identity(key, shape, dtype):
    """A 1x1x1 kernel that copies each input pixel to all the pixels it becomes."""
    *_, channels, out = shape
    return jnp.tile(jnp.eye(channels, dtype=dtype), out // channels).reshape(shape)


class Upsample(nnx.Module):
    """Twice the height and width, and twice the frames if ``in_time``.

    A 1x1x1 convolution makes the new pixels as channels ((row * 2 + column) * frames + frame) * c;
    then a 3x3x3 convolution runs. The first frame of a clip stands for one frame, not for two: its
    twin is dropped, so f frames become 2 f - 1 in the first slice.
    """

    def __init__(
        self,
        channels: int,
        in_time: bool,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
    ):
        self.time_factor = 2 if in_time else 1
        self.upscale_conv = CausalConv3d(
            channels,
            channels * 4 * self.time_factor,
            (1, 1, 1),
            kernel_init=_repeated_identity,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.conv = CausalConv3d(
            channels, channels, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )

    def __call__(
        self, x: Float[Array, "b f h w c"], cache: Cache = None, tiles: int = 1
    ) -> tuple[Float[Array, "b f_out h_out w_out c"], Cache]:
        """``tiles``: spatial tiles, one after the other; ignored where frames double."""
        x = x.astype(self.conv.dtype)
        if not _worth_merging(x):
            return self._separate(x, cache)
        if self.time_factor == 2:
            products = self._products()
            if cache is None:
                return self._start_in_time(x, products)
            return self._continue_in_time(x, products, cache)
        if tiles > 1:
            return self._in_tiles(x, cache, tiles)
        return self._in_space(x, cache)

    def _separate(self, x: Float[Array, "b f h w c"], cache: Cache):
        return self.conv(self._new_pixels(x, first=cache is None), cache)

    def _new_pixels(
        self, x: Float[Array, "b f h w c"], first: bool
    ) -> Float[Array, "b f_out h_out w_out c"]:
        """The input of the 3x3x3 convolution. ``first``: x starts its clip."""
        b, f, h, w, c = x.shape
        new_frames = self.time_factor
        x, _ = self.upscale_conv(x)
        x = x.reshape(b, f, h, w, 2, 2, new_frames, c)
        x = x.transpose(0, 1, 6, 2, 4, 3, 5, 7)  # b f new_frames h 2 w 2 c
        x = x.reshape(b, f * new_frames, h * 2, w * 2, c)
        return jnp.concatenate([x[:, :1], x[:, 2:]], axis=1) if first and new_frames == 2 else x

    def _products(self) -> Float[Array, "features new_frames 3 4 4 o"]:
        dtype = self.conv.dtype
        pointwise = self.upscale_conv.kernel[...].astype(dtype)[0, 0, 0]
        bias = self.upscale_conv.bias[...].astype(dtype)
        return kernel_products(pointwise, bias, self.conv.kernel[...].astype(dtype))

    def kernel(self) -> MergedKernel:
        """Both convolutions as one, of a layer that leaves the number of frames as it is."""
        return merged_kernel(self._products()[:, 0], 1, self.conv.dtype)

    def _bias(self) -> Float[Array, " c"]:
        return self.conv.bias[...].astype(jnp.float32)

    def _complete(self, y: Float[Array, "b f h w new"], kernel: MergedKernel):
        """Adds the constants to all positions of whole frames."""
        return add_constants(y, kernel.ones, self._bias(), y.shape[2] - 1)

    def _in_space(self, x: Float[Array, "b f h w c"], cache: Cache):
        kernel = self.kernel()
        y, cache = causal_conv3d(x, kernel.weights, cache, padding=_PADDING)
        return positions_to_pixels(self._complete(y, kernel), 1), cache

    def _in_tiles(self, x: Float[Array, "b f h w c"], cache: Cache, tiles: int):
        """Each tile too has one position more than small rows; its outer pixels are cut off."""
        kernel, bias = self.kernel(), self._bias()
        taps, (b, f, h, w, c) = kernel.weights.shape[0], x.shape
        frames, rows = with_cached_frames(x, cache, taps - 1), h // tiles

        def make(i: Array) -> Array:
            tile = rows_with_halo(frames, i * rows, rows, lambda part: part)
            y = conv3d(tile, kernel.weights, padding=((0, 0), _PADDING[1]))
            return positions_to_pixels(add_constants(y, kernel.ones, bias, h, i * rows), 1)

        y = map_tiles(tiles, (b, f, 2 * h, 2 * w, c), x.dtype, make, x)
        return y, frames_to_cache(frames, taps - 1)

    def _start_in_time(self, x: Float[Array, "b f h w c"], products: Array):
        """The first slice of a clip: one new frame from the first small one, then pairs."""
        twinless = products[:, 0]  # a first frame's own taps; those before it are copies of it
        kernel = merged_kernel(twinless.sum(axis=1, keepdims=True), 1, x.dtype)
        y = self._complete(conv3d(x[:, :1], kernel.weights, padding=_PADDING), kernel)
        start, x_later = positions_to_pixels(y, 1), x[:, 1:]
        cache = x[:, :1], jnp.asarray(True)
        if not x_later.shape[1]:
            return start, cache
        later, cache = self._continue_in_time(x_later, products, cache)
        return jnp.concatenate([start, later], axis=1), cache

    def _continue_in_time(self, x: Float[Array, "b f h w c"], products: Array, cache: Cache):
        """New frames 2 k - 1 and 2 k from the small frames k - 1 and k.

        The cache holds the last small frame, and whether it is the first of its clip, which has no
        twin.
        """
        before, is_first = cache
        twinless = products[:, 0]
        sent = shift_and_sum(products, axis=1, along=2)
        after_first = jnp.stack([twinless[:, 1] + twinless[:, 2], twinless[:, 2]], axis=1)
        special = jnp.concatenate([sent[:, :2], jnp.where(is_first, after_first, sent[:, 2:])], 1)
        frames = jnp.concatenate([before.astype(x.dtype), x], axis=1)
        parts = []
        for inputs, sent_by in ((frames[:, :2], special), (frames[:, 1:], sent)):
            if inputs.shape[1] > 1:
                kernel = merged_kernel(sent_by, 2, x.dtype)
                y = self._complete(conv3d(inputs, kernel.weights, padding=_PADDING), kernel)
                parts.append(positions_to_pixels(y, 2))
        return jnp.concatenate(parts, axis=1), (x[:, -1:], jnp.asarray(False))
