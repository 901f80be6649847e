"""The blocks of the encoder and the decoder: resnets, downsampling, and the levels they form.

Every sub-layer is called as ``layer(x, cache) -> (y, cache)`` with x in (b, f, h, w, c). ``cache``
is None in the first slice of a clip, else what the sub-layer returned for the slice before.
Attributes have the names of the public checkpoints' keys.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
from flax import nnx
from jax import Array

from skipsr_jax.kernels.norm_silu_concat import scale_shift_silu
from skipsr_jax.kernels.quantized import Format
from skipsr_jax.kernels.target import current_target
from skipsr_jax.models.layers.causal_conv import Cache, CausalConv3d, causal_conv
from skipsr_jax.models.vae.attention import FrameAttention
from skipsr_jax.models.vae.group_norm import GroupNorm
from skipsr_jax.models.vae.spatial_tiles import Pointwise, conv_in_tiles
from skipsr_jax.models.vae.upsample import Upsample
from skipsr_jax.types import DType, Float

Layer = Callable[[Array, Cache], tuple[Array, Cache]]


class Sublayer(NamedTuple):
    """A layer and its name in profiles."""

    scope: str
    run: Layer


def run_in_order(
    sublayers: Sequence[Sublayer], x: Array, cache: Cache, *, remat: bool = False
) -> tuple[Array, Cache]:
    """Runs each sub-layer on the output of the one before, each with its own cache.

    ``remat`` keeps only the inputs of sub-layers for the backward pass and computes the rest again.
    """
    caches = (None,) * len(sublayers) if cache is None else cache
    new_caches = []
    for (scope, layer), old in zip(sublayers, caches, strict=True):
        run = jax.checkpoint(lambda x, old, layer=layer: layer(x, old)) if remat else layer
        with jax.named_scope(scope):
            x, new = run(x, old)
        new_caches.append(new)
    return x, tuple(new_caches)


def norm_silu(
    norm: GroupNorm, x: Float[Array, "b f h w c"], dtype: DType | None = None
) -> Pointwise:
    """silu(norm(x)) in ``dtype`` (by default x's), as a function of parts of x."""
    scale_shift = norm.scale_shift(x)
    return lambda part: scale_shift_silu(part, scale_shift, dtype)


_MOST_UNFUSED_CHANNELS = 128
"""Up to this many channels, a GPU adds the result of a convolution in a pass of its own. cuDNN
would add in the convolution: with 128 channels that took 5.6 ms in place of 4.5 (4 frames of 720p
on an H200), and the pass takes 0.65; with 256 channels it costs nothing."""


def _sum(x: Float[Array, "b f h w c"], y: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
    """x + y, for the result y of a convolution."""
    if y.shape[-1] <= _MOST_UNFUSED_CHANNELS and current_target().platform == "gpu":
        y = jax.lax.optimization_barrier(y)
    return x + y


class Resnet(nnx.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))); x through a 1x1x1 one if widths differ.

    ``format``: of the products of the wide convolutions among the two; None: ``dtype``.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        groups: int,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
        format: Format | None = None,
    ):
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        conv = functools.partial(causal_conv, format=format, **kinds)
        self.norm1 = GroupNorm(features_in, groups, rngs=rngs, param_dtype=param_dtype)
        self.conv1 = conv(features_in, features_out)
        self.norm2 = GroupNorm(features_out, groups, rngs=rngs, param_dtype=param_dtype)
        self.conv2 = conv(features_out, features_out)
        if features_in != features_out:
            self.conv_shortcut = CausalConv3d(features_in, features_out, (1, 1, 1), **kinds)
        else:
            self.conv_shortcut = None

    def __call__(
        self, x: Float[Array, "b f h w i"], cache: Cache = None, tiles: int = 1
    ) -> tuple[Float[Array, "b f h w o"], Cache]:
        """``tiles``: spatial tiles, one after the other."""
        cache1, cache2 = (None, None) if cache is None else cache
        if tiles > 1:
            return self._in_tiles(x, cache1, cache2, tiles)
        with jax.named_scope("norm1"):
            scale_shift = self.norm1.scale_shift(x)
        with jax.named_scope("conv1"):
            y, cache1 = self.conv1(x, cache1, scale_shift)
        with jax.named_scope("norm2"):
            scale_shift = self.norm2.scale_shift(y)
        with jax.named_scope("conv2"):
            y, cache2 = self.conv2(y, cache2, scale_shift)
        if self.conv_shortcut is not None:
            with jax.named_scope("conv_shortcut"):
                x, _ = self.conv_shortcut(x)
        return _sum(x, y), (cache1, cache2)

    def _in_tiles(self, x: Float[Array, "b f h w i"], cache1: Cache, cache2: Cache, tiles: int):
        def shortcut(part: Array) -> Array:
            return part if self.conv_shortcut is None else self.conv_shortcut(part)[0]

        with jax.named_scope("norm1"):
            prepare = norm_silu(self.norm1, x, self.conv1.input_dtype)
        with jax.named_scope("conv1"):
            y, cache1 = conv_in_tiles(self.conv1, prepare, x, cache1, tiles)
        with jax.named_scope("norm2"):
            prepare = norm_silu(self.norm2, y, self.conv2.input_dtype)
        with jax.named_scope("conv2"):
            y, cache2 = conv_in_tiles(self.conv2, prepare, y, cache2, tiles, (shortcut, x))
        return y, (cache1, cache2)


class Downsample(nnx.Module):
    """Half the height and width, and half the frames if ``in_time``, by a strided convolution.

    Space is padded by one zero row and column at the bottom and right only.
    """

    def __init__(
        self, channels: int, in_time: bool, *, rngs: nnx.Rngs, dtype: DType, param_dtype: DType
    ):
        self.conv = CausalConv3d(
            channels,
            channels,
            (3 if in_time else 1, 3, 3),
            strides=(2 if in_time else 1, 2, 2),
            padding=((0, 1), (0, 1)),
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )

    def __call__(
        self, x: Float[Array, "b f h w c"], cache: Cache = None
    ) -> tuple[Float[Array, "b f_out h_out w_out c"], Cache]:
        y, cache = self.conv(x, cache)
        # Several layers read it. The barrier keeps the bias with the convolution, not with them.
        return jax.lax.optimization_barrier(y), cache


def _resnets(
    features_in: int,
    features_out: int,
    count: int,
    groups: int,
    *,
    rngs: nnx.Rngs,
    dtype: DType,
    param_dtype: DType,
    format: Format | None,
) -> list[Resnet]:
    """``count`` resnets one after the other, of which the first changes the number of features."""
    kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype, "format": format}
    resnet = functools.partial(Resnet, **kinds)
    widths = [features_in] + [features_out] * count
    return [resnet(i, o, groups) for i, o in itertools.pairwise(widths)]


class MidBlock(nnx.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    def __init__(
        self,
        channels: int,
        groups: int,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
        format: Format | None = None,
    ):
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.attentions = nnx.List([FrameAttention(channels, groups, **kinds)])
        self.resnets = nnx.List(_resnets(channels, channels, 2, groups, format=format, **kinds))

    def sublayers(self) -> list[Sublayer]:
        """In order."""
        return [
            Sublayer("mid/resnet_0", self.resnets[0]),
            Sublayer("mid/attention", self.attentions[0]),
            Sublayer("mid/resnet_1", self.resnets[1]),
        ]


def _in_tiles(layer: Callable, tiles: int) -> Layer:
    return layer if tiles == 1 else functools.partial(layer, tiles=tiles)


class DownBlock(nnx.Module):
    """Resnets, then a downsampling unless ``downsample`` is None (its value: also in time?)."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        layers: int,
        groups: int,
        downsample: bool | None,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
        format: Format | None = None,
    ):
        self.resnets = nnx.List(
            _resnets(
                features_in,
                features_out,
                layers,
                groups,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
                format=format,
            )
        )
        self.downsamplers = nnx.List([])
        if downsample is not None:
            self.downsamplers.append(
                Downsample(
                    features_out, downsample, rngs=rngs, dtype=dtype, param_dtype=param_dtype
                )
            )

    def sublayers(self, scope: str, tiles: int = 1) -> list[Sublayer]:
        """In order, the resnets in spatial tiles. ``scope``: the level's name in profiles."""
        resnets = [
            Sublayer(f"{scope}/resnet_{i}", _in_tiles(resnet, tiles))
            for i, resnet in enumerate(self.resnets)
        ]
        return resnets + [Sublayer(f"{scope}/downsample", layer) for layer in self.downsamplers]


class UpBlock(nnx.Module):
    """Resnets, then an upsampling unless ``upsample`` is None (its value: also in time?)."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        layers: int,
        groups: int,
        upsample: bool | None,
        *,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
        format: Format | None = None,
    ):
        self.resnets = nnx.List(
            _resnets(
                features_in,
                features_out,
                layers,
                groups,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
                format=format,
            )
        )
        self.upsamplers = nnx.List([])
        if upsample is not None:
            self.upsamplers.append(
                Upsample(features_out, upsample, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
            )

    def sublayers(self, scope: str, tiles: int = 1) -> list[Sublayer]:
        """In order, all in spatial tiles. ``scope``: the level's name in profiles."""
        named = [(f"resnet_{i}", resnet) for i, resnet in enumerate(self.resnets)]
        named += [("upsample", layer) for layer in self.upsamplers]
        return [Sublayer(f"{scope}/{name}", _in_tiles(layer, tiles)) for name, layer in named]
