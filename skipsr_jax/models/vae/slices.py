"""Whole clips through a coder, slice by slice: only one slice is on the device at a time.

A clip of t latent frames is cut into a first slice of one, and later ones of a given number and of
one, so that three compiled programs, or two, serve a clip of any length. A coder is the full
autoencoder or the light one (``models.light_coder``). Invariant: the outputs of the slices,
concatenated, are those of one run on the whole clip; nothing is padded and nothing dropped.
"""

from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.geometry import TIME_FACTOR, is_clip_length, latent_count, padded_count
from skipsr_jax.models.layers.causal_conv import Cache
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.params import Params, bind
from skipsr_jax.models.vae.model import VAE, Posterior
from skipsr_jax.types import Float, HostArray

EncodeStep = Callable[[Params, Array, Cache], tuple[Posterior, Cache]]
DecodeStep = Callable[[Params, Array, Cache, Array | None], tuple[Array, Cache]]


def latent_slices(latents: int, per_slice: int = 1) -> list[int]:
    """Latent frames of each slice: 1, then ``per_slice`` each, then 1 each for what is left.

    Raises ValueError for numbers below 1.
    """
    if latents < 1 or per_slice < 1:
        raise ValueError(f"latents {latents} and per_slice {per_slice} must be at least 1")
    whole, left = divmod(latents - 1, per_slice)
    return [1] + [per_slice] * whole + [1] * left


def frame_slices(frames: int, per_slice: int = 1) -> list[int]:
    """Pixel frames of each slice, for a clip of ``frames`` = 4 k + 1, else ValueError."""
    if not is_clip_length(frames):
        raise ValueError(
            f"a clip has {frames} frames; it must have {TIME_FACTOR} k + 1: repeat the last frame "
            f"up to {padded_count(max(frames, 1))}"
        )
    latents = latent_slices(latent_count(frames), per_slice)
    return [TIME_FACTOR * t - (TIME_FACTOR - 1 if i == 0 else 0) for i, t in enumerate(latents)]


def encode_step(coder: VAE | LightCoder, tiles: int = 1) -> EncodeStep:
    """``coder.encode`` of a real or abstract module, compiled once per slice shape.

    The cache is donated: its memory becomes the next one's. ``tiles`` as in ``VAE.encode``; the
    light coder has none.
    """
    fixed = {"tiles": tiles} if tiles > 1 else {}

    def encode(params: Params, frames: Array, cache: Cache) -> tuple[Posterior, Cache]:
        return bind(coder, params).encode(frames, cache, **fixed)

    return jax.jit(encode, donate_argnames="cache", compiler_options=convolution_options())


def decode_step(coder: VAE | LightCoder, tiles: int = 1) -> DecodeStep:
    """``coder.decode`` of a real or abstract module, compiled once per slice shape.

    The cache is donated: its memory becomes the next one's. ``tiles`` as in ``VAE.decode``; the
    light coder has none.
    """
    fixed = {"tiles": tiles} if tiles > 1 else {}

    def decode(
        params: Params, latents: Array, cache: Cache, upscaled: Array | None
    ) -> tuple[Array, Cache]:
        return bind(coder, params).decode(latents, cache, upscaled, **fixed)

    return jax.jit(decode, donate_argnames="cache", compiler_options=convolution_options())


def encode_scanned(vae: VAE, frames: Float[Array, "b f h w 3"]) -> Posterior:
    """``vae.encode`` of a whole clip inside one program, a latent frame at a time: the program's
    memory does not grow with the clip. f = 4 k + 1, else ValueError."""
    frame_slices(frames.shape[1])
    first, cache = vae.encode(frames[:, :1])
    if frames.shape[1] == 1:
        return first
    b, f, *rest = frames.shape
    later = jnp.moveaxis(frames[:, 1:].reshape(b, f // TIME_FACTOR, TIME_FACTOR, *rest), 1, 0)

    def step(cache: Cache, frames: Array) -> tuple[Cache, Posterior]:
        posterior, cache = vae.encode(frames, cache)
        return cache, posterior

    _, posteriors = jax.lax.scan(step, cache, later)
    rest = jax.tree.map(lambda x: jnp.moveaxis(x[:, :, 0], 0, 1), posteriors)
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), first, rest)


def encode_clip(
    step: EncodeStep, params: Params, slices: Iterable[Array | HostArray]
) -> Iterator[Posterior]:
    """The posterior of each slice of frames (lengths as from ``frame_slices``)."""
    cache = None
    for frames in slices:
        posterior, cache = step(params, frames, cache)
        yield posterior


def decode_clip(
    step: DecodeStep,
    params: Params,
    slices: Iterable[Array | HostArray],
    upscaled: Iterable[Array | HostArray] | None = None,
) -> Iterator[Array]:
    """The frames of each slice of latents (lengths as from ``latent_slices``).

    ``upscaled``: for a residual decoder, the upscaled input in slices as from ``frame_slices``.
    Raises ValueError when the two differ in number.
    """
    cache = None
    if upscaled is None:
        pairs = ((latents, None) for latents in slices)
    else:
        pairs = zip(slices, upscaled, strict=True)
    for latents, input_frames in pairs:
        frames, cache = step(params, latents, cache, input_frames)
        yield frames
