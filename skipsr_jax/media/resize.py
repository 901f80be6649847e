"""Resizing of frames in numpy: area, bilinear and bicubic interpolation.

Pixel centres lie at half-integers (``align_corners=False``), borders repeat the edge pixel, and no
low-pass filter is applied except by ``area``; bicubic has Keys' a = -0.75. These are torch's
conventions, hence those of the public SeedVR weights. The low-quality input of a training clip and
the input of a user's video go through the same functions: ``area_down`` makes the one,
``upscale`` brings both to the target size (REFERENCE 13).

Invariant: every row of weights sums to one, so a constant picture stays constant.
"""

from typing import Literal

import numpy as np

from skipsr_jax.types import Float, HostArray, Int

Method = Literal["area", "bilinear", "bicubic"]

_KEYS_A = -0.75  # torch's bicubic; -0.5 would be Catmull-Rom (jax's plain "cubic")


def _cubic(distance: HostArray) -> HostArray:
    """Keys' cubic convolution kernel, support 2."""
    x = np.abs(distance)
    near = ((_KEYS_A + 2) * x - (_KEYS_A + 3)) * x * x + 1
    far = ((_KEYS_A * x - 5 * _KEYS_A) * x + 8 * _KEYS_A) * x - 4 * _KEYS_A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _taps(
    length: int, out: int, method: Method
) -> tuple[Int[HostArray, "k out"], Float[HostArray, "k out"]]:
    """Source index and weight of the k taps of each output position."""
    scale = length / out
    if method == "area":  # the fraction of [i, i+1) that output cell [o, o+1) * scale covers
        edges = np.arange(out + 1) * scale
        first = np.floor(edges[:-1] + 1e-9).astype(int)
        index = first + np.arange(int(np.ceil(scale)) + 1)[:, None]
        cover = np.minimum(index + 1, edges[1:]) - np.maximum(index, edges[:-1])
        weight = np.clip(cover, 0, None) / scale
    else:
        centre = (np.arange(out) + 0.5) * scale - 0.5
        first = np.floor(centre).astype(int)
        reach = (0, 1) if method == "bilinear" else (-1, 0, 1, 2)
        index = first + np.array(reach)[:, None]
        distance = index - centre
        weight = 1 - np.abs(distance) if method == "bilinear" else _cubic(distance)
    used = np.abs(weight).max(axis=1) > 1e-12
    index = np.clip(index[used], 0, length - 1)
    return index, weight[used].astype(np.float32)


def weights(length: int, out: int, method: Method) -> Float[HostArray, "out length"]:
    """The matrix by which ``resize`` multiplies an axis of ``length``, for use on a device."""
    matrix = np.zeros((out, length), np.float32)
    index, weight = _taps(length, out, method)
    np.add.at(matrix, (np.arange(out)[None], index), weight)
    return matrix


def _along(
    frames: Float[HostArray, "f h w c"], axis: int, out: int, method: Method
) -> Float[HostArray, "..."]:
    if frames.shape[axis] == out:
        return frames
    index, weight = _taps(frames.shape[axis], out, method)
    shape = [1, 1, 1, 1]
    shape[axis] = out
    total = None
    for source, factor in zip(index, weight, strict=True):
        term = np.take(frames, source, axis=axis)
        term *= factor.reshape(shape)
        total = term if total is None else np.add(total, term, out=total)
    return total


def resize(
    frames: Float[HostArray, "f h w c"], size: tuple[int, int], method: Method = "bicubic"
) -> Float[HostArray, "f h2 w2 c"]:
    """Frames at ``size`` = (height, width), float32, in the value range of the input.

    Bicubic overshoots: clip where a range matters. ``area`` is meant for downsampling and weighs a
    source pixel by the part of it that an output pixel covers.

    Raises ValueError when a side has no pixels.
    """
    height, width = size
    if min(height, width, *frames.shape[1:3]) < 1:
        raise ValueError(f"cannot resize {frames.shape[1:3]} to {size}: a side has no pixels")
    frames = np.asarray(frames, np.float32)
    if width > frames.shape[2]:  # the cheaper axis first: the one that keeps the middle small
        return _along(_along(frames, 2, width, method), 1, height, method)
    return _along(_along(frames, 1, height, method), 2, width, method)


def area_down(frames: HostArray, factor: int) -> Float[HostArray, "f h w c"]:
    """Frames ``factor`` times smaller, float32: the mean of each factor x factor block.

    Raises ValueError when a side is no multiple of the factor.
    """
    _, h, w, _ = frames.shape
    if factor < 1 or h % factor or w % factor:
        raise ValueError(
            f"{h} x {w} frames cannot be area-downsampled by {factor}: crop to multiples of it"
        )
    if factor == 1:
        return np.asarray(frames, np.float32)
    # Strided sums stay in cache; a mean over two axes of six does not.
    rows = frames[:, ::factor].astype(np.float32)
    for offset in range(1, factor):
        rows += frames[:, offset::factor]
    total = rows[:, :, ::factor].copy()
    for offset in range(1, factor):
        total += rows[:, :, offset::factor]
    total *= 1.0 / factor**2
    return total


def upscale(frames: HostArray, size: tuple[int, int]) -> Float[HostArray, "f h w c"]:
    """The low-quality frames at the target size: bicubic, clipped to [0, 1].

    ``frames`` are uint8 (0..255), uint16 (0..65535) or float32 in [0, 1].
    """
    if frames.dtype == np.uint8 or frames.dtype == np.uint16:
        frames = frames.astype(np.float32) * np.float32(1 / np.iinfo(frames.dtype).max)
    return np.clip(resize(frames, size, "bicubic"), 0.0, 1.0)
