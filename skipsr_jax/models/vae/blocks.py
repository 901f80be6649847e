"""The parts of the causal video autoencoder, between its convolutions and its encoder and decoder.

Every part is called as ``part(x, carry) -> (y, carry)`` with x in (b, f, h, w, c): ``carry`` is
None in the first slice of a clip, else what the part returned for the slice before. Attributes have
the names of the public checkpoints' keys.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.kernels.norm_silu_concat.scale_shift import activated
from skipsr_jax.kernels.target import current_target
from skipsr_jax.models.layers.causal_conv import Carry, CausalConv3d
from skipsr_jax.models.vae.group_norm import GroupNorm
from skipsr_jax.models.vae.spatial_tiles import Pointwise, conv_in_tiles
from skipsr_jax.models.vae.upsample import Upsample
from skipsr_jax.parallel.spatial import attend_within_frames
from skipsr_jax.types import Float

Part = Callable[[Array, Carry], tuple[Array, Carry]]

# Attention scores held at a time, in float32: 1 GiB.
_MAX_SCORES = 2**28


def run_in_order(
    parts: Sequence[Part], x: Array, carry: Carry, *, remat: bool = False
) -> tuple[Array, Carry]:
    """Each part on the output of the one before, each with its own carry.

    ``remat`` keeps only the parts' inputs for the backward pass and computes the rest again.
    """
    carries = (None,) * len(parts) if carry is None else carry
    remembered = []
    for part, before in zip(parts, carries, strict=True):
        run = jax.checkpoint(lambda x, before, part=part: part(x, before)) if remat else part
        x, after = run(x, before)
        remembered.append(after)
    return x, tuple(remembered)


def space_to_depth(x: Float[Array, "b f h w c"]) -> Float[Array, "b f v u o"]:
    """2 x 2 pixels side by side as channels, row by row: half the height and width, 4 c wide."""
    b, f, h, w, c = x.shape
    x = x.reshape(b, f, h // 2, 2, w // 2, 2, c).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(b, f, h // 2, w // 2, 4 * c)


def normed_silu(norm: GroupNorm, x: Float[Array, "b f h w c"]) -> Pointwise:
    """silu(norm(x)), for parts of x."""
    affine = norm.affine(x)
    return lambda part: activated(part, affine)


def with_tiles(parts: "Iterable[Resnet | Upsample]", tiles: int) -> list[Part]:
    """The parts, each over so many tiles of the picture."""
    if tiles == 1:
        return list(parts)
    return [functools.partial(part, tiles=tiles) for part in parts]


_ADDED_APART = 128
"""To how many channels a GPU adds a convolution's result in a pass of its own. cuDNN would add in
the convolution: with 128 channels that took 5.6 ms in place of 4.5 (4 frames of 720p on an H200),
and the pass takes 0.65; with 256 it costs nothing."""


def _sum(x: Float[Array, "b f h w c"], y: Float[Array, "b f h w c"]) -> Float[Array, "b f h w c"]:
    """x + y, for the result y of a convolution."""
    if y.shape[-1] <= _ADDED_APART and current_target().platform == "gpu":
        y = jax.lax.optimization_barrier(y)
    return x + y


class Resnet(nnx.Module):
    """x + conv2(silu(norm2(conv1(silu(norm1(x)))))); x through a 1x1x1 one if widths differ."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        groups: int,
        *,
        rngs: nnx.Rngs,
        dtype: Any,
        param_dtype: Any,
    ):
        kind = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.norm1 = GroupNorm(features_in, groups, param_dtype=param_dtype)
        self.conv1 = CausalConv3d(features_in, features_out, **kind)
        self.norm2 = GroupNorm(features_out, groups, param_dtype=param_dtype)
        self.conv2 = CausalConv3d(features_out, features_out, **kind)
        if features_in != features_out:
            self.conv_shortcut = CausalConv3d(features_in, features_out, (1, 1, 1), **kind)
        else:
            self.conv_shortcut = None

    def __call__(self, x: Float[Array, "b f h w i"], carry: Carry = None, tiles: int = 1):
        first, second = (None, None) if carry is None else carry
        if tiles > 1:
            return self._in_tiles(x, first, second, tiles)
        y, first = self.conv1(x, first, self.norm1.affine(x))
        y, second = self.conv2(y, second, self.norm2.affine(y))
        if self.conv_shortcut is not None:
            x, _ = self.conv_shortcut(x)
        return _sum(x, y), (first, second)

    def _in_tiles(self, x: Float[Array, "b f h w i"], first: Carry, second: Carry, tiles: int):
        def shortcut(part: Array) -> Array:
            return part if self.conv_shortcut is None else self.conv_shortcut(part)[0]

        y, first = conv_in_tiles(self.conv1, normed_silu(self.norm1, x), x, first, tiles)
        act, added = normed_silu(self.norm2, y), (shortcut, x)
        y, second = conv_in_tiles(self.conv2, act, y, second, tiles, added)
        return y, (first, second)


class Downsample(nnx.Module):
    """Half the height and width, and half the frames if ``in_time``, by a strided convolution.

    Space is padded by one zero row and column at the bottom and right only.
    """

    def __init__(
        self, channels: int, in_time: bool, *, rngs: nnx.Rngs, dtype: Any, param_dtype: Any
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

    def __call__(self, x: Float[Array, "b f h w c"], carry: Carry = None):
        y, carry = self.conv(x, carry)
        # Several layers read it. The barrier keeps the bias with the convolution, not with them.
        return jax.lax.optimization_barrier(y), carry


class FrameAttention(nnx.Module):
    """x + one-head self-attention over the pixels of each frame, after a group norm."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs, dtype: Any, param_dtype: Any):
        kind = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.group_norm = GroupNorm(channels, groups, param_dtype=param_dtype)
        self.to_q = nnx.Linear(channels, channels, **kind)
        self.to_k = nnx.Linear(channels, channels, **kind)
        self.to_v = nnx.Linear(channels, channels, **kind)
        self.to_out = nnx.List([nnx.Linear(channels, channels, **kind)])

    def __call__(self, x: Float[Array, "b f h w c"], carry: Carry = None):
        y = self.group_norm(x)
        y = attend_within_frames(_attend, self.to_q(y), self.to_k(y), self.to_v(y))
        return x + self.to_out[0](y), ()


def _attend(
    q: Float[Array, "f i c"], k: Float[Array, "f j c"], v: Float[Array, "f j c"]
) -> Float[Array, "f i c"]:
    """One head within each frame, a block of queries at a time."""
    channels, block = q.shape[2], max(1, min(q.shape[1], _MAX_SCORES // k.shape[1]))

    def attend_in_frame(frame):
        q, k, v = frame

        def attend(row):
            scores = jnp.matmul(k, row, preferred_element_type=jnp.float32) * channels**-0.5
            weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max()))
            mixed = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
            return (mixed / weights.sum()).astype(v.dtype)  # one pass less than softmax's own

        return jax.lax.map(attend, q, batch_size=block)

    return jax.lax.map(attend_in_frame, (q, k, v))


class MidBlock(nnx.Module):
    """Resnet, attention, resnet at the lowest resolution."""

    def __init__(self, channels: int, groups: int, *, rngs: nnx.Rngs, dtype: Any, param_dtype: Any):
        kind = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.attentions = nnx.List([FrameAttention(channels, groups, **kind)])
        self.resnets = nnx.List([Resnet(channels, channels, groups, **kind) for _ in range(2)])

    def parts(self) -> list[Part]:
        return [self.resnets[0], self.attentions[0], self.resnets[1]]


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
        dtype: Any,
        param_dtype: Any,
    ):
        kind = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        widths = [features_in] + [features_out] * layers
        self.resnets = nnx.List(
            [Resnet(i, o, groups, **kind) for i, o in itertools.pairwise(widths)]
        )
        if downsample is not None:
            self.downsamplers = nnx.List([Downsample(features_out, downsample, **kind)])
        else:
            self.downsamplers = nnx.List([])

    def parts(self, tiles: int = 1) -> list[Part]:
        return [*with_tiles(self.resnets, tiles), *self.downsamplers]


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
        dtype: Any,
        param_dtype: Any,
    ):
        kind = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        widths = [features_in] + [features_out] * layers
        self.resnets = nnx.List(
            [Resnet(i, o, groups, **kind) for i, o in itertools.pairwise(widths)]
        )
        if upsample is not None:
            self.upsamplers = nnx.List([Upsample(features_out, upsample, **kind)])
        else:
            self.upsamplers = nnx.List([])

    def parts(self, tiles: int = 1) -> list[Part]:
        return with_tiles([*self.resnets, *self.upsamplers], tiles)
