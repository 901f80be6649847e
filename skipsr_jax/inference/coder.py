"""Runs the autoencoder of a model on the slices of a chunk: frames to latents and back.

A ``CodingPlan`` says how one direction, encoding or decoding, runs. Programs are compiled once per
shape, with the parameters as arguments. Latents are scaled (times the autoencoder's
``scaling_factor``), as the transformer takes them.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax.errors import UserError
from skipsr_jax.geometry import (
    PATCH,
    SPACE_FACTOR,
    latent_count,
    padded_count,
    spans,
)
from skipsr_jax.inference.coding_plan import DENSE, CodingPlan, Direction
from skipsr_jax.inference.model import Model
from skipsr_jax.inference.program_cache import Program
from skipsr_jax.models.light_coder import LightCoder, sparse_decode
from skipsr_jax.models.light_coder.memory import param_bytes, slice_bytes
from skipsr_jax.models.vae.memory import estimate_memory
from skipsr_jax.models.vae.model import Posterior
from skipsr_jax.models.vae.slices import (
    decode_clip,
    decode_step,
    encode_clip,
    encode_step,
    frame_slices,
    latent_slices,
)
from skipsr_jax.models.vae.sparse_decode import decode_sparse_clip, sparse_decode_step
from skipsr_jax.models.vae.sparse_encode import encode_sparse_clip, sparse_encode_step
from skipsr_jax.parallel.spatial import spatial_sharding
from skipsr_jax.types import Float, HostArray

LIGHT_SLICE_PIXELS = 5 * 720 * 1280
"""Latent frames of a slice of the light coder, times the pixels of a frame. Decoding 101 frames of
720p on an H200 took 0.070 s in slices of 5 latent frames and 0.092 s in slices of 1."""


def free_bytes() -> int | None:
    """Returns the free memory of the first device; None where the device does not say."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def light_slice(
    coder: LightCoder, size: tuple[int, int], slice_latents: int, budget: float | int
) -> int:
    """Latent frames of a slice of the light coder for frames of ``size`` (height, width).

    Args:
      coder: real or abstract.
      size: in pixels, padding included.
      slice_latents: as in the settings, 0 to choose.
      budget: bytes that it may take, its parameters included; 0: any number.
    """
    most = LIGHT_SLICE_PIXELS // math.prod(size) if jax.default_backend() != "cpu" else 1
    wanted = slice_latents or max(1, most)
    if not budget:
        return wanted
    fitting = [n for n in range(1, wanted + 1) if slice_bytes(coder, *size, n) <= budget]
    return max(fitting, default=1)


def _unscaled(
    latent: Float[Array, "b t h w c"], lengths: tuple[int, ...], scale: float
) -> tuple[Float[Array, "b _ h w c"], ...]:
    """Slices of a latent of these lengths, divided by the scaling factor."""
    return tuple(latent[:, part] / scale for part in spans(lengths))


def _two_at_a_time(posteriors: Iterable[Posterior]) -> Iterator[Posterior]:
    """Posteriors of slices, on a CPU at most two of them under way.

    A CPU makes the upscaled frames of all slices that are asked for at once, and holds them until
    the encoder comes to them.
    """
    before = None
    for posterior in posteriors:
        if jax.default_backend() == "cpu":
            jax.block_until_ready(before)
        before = posterior
        yield posterior


class Coder:
    """The compiled encoder and decoder of one model. Creating it compiles nothing.

    Args:
      model: with the autoencoder.
      program: makes a program of the model from its name and function.
    """

    def __init__(self, model: Model, program: Callable[[str, Callable], Program]):
        scale = model.coder.config.scaling_factor

        @jax.named_scope("sample_posterior")
        def sample(posteriors, noise):
            joined = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *posteriors)
            return joined.sample(noise) * scale

        self._model = model
        self._program = program
        self._tiles: dict[tuple, int] = {}
        self._dense_steps: dict[int, tuple[Program, Program]] = {}
        if model.coder_kind == "full":
            self._sparse = {
                "encode": sparse_encode_step(model.coder),
                "decode": sparse_decode_step(model.coder),
            }
        else:
            self._sparse = {"decode": sparse_decode.sparse_decode_step(model.coder)}
        self._sparse_steps: dict[tuple[Direction, int, int], Program] = {}
        self._sample = program("sample posterior", jax.jit(sample), autotune=False)
        self._unscale = program(
            "unscale",
            jax.jit(functools.partial(_unscaled, scale=scale), static_argnames="lengths"),
            autotune=False,
        )

    def latent_shape(self, grid: tuple[int, int, int]) -> tuple[int, int, int, int, int]:
        """The shape (1, t, h, w, c) of the latent of a chunk of ``grid`` (t, r, q) tokens."""
        frames, rows, columns = grid
        return 1, frames, PATCH * rows, PATCH * columns, self._model.coder.config.latent_channels

    def dense_plan(
        self, size: tuple[int, int], slice_latents: int, memory_gib: float
    ) -> CodingPlan:
        """How frames of ``size`` (height, width), padding included, run densely.

        ``slice_latents``: as in the settings, 0 to choose. The others as of ``tiles``.
        """
        if self._model.coder_kind == "light":
            return CodingPlan("dense", self._light_slice(size, slice_latents, memory_gib))
        slice_latents = slice_latents or 1
        return CodingPlan("dense", slice_latents, self.tiles(size, slice_latents, memory_gib))

    def _light_slice(self, size: tuple[int, int], slice_latents: int, memory_gib: float) -> int:
        """Latent frames of a slice of the light coder; as ``dense_plan``."""
        free, module = free_bytes(), self._model.coder
        budget = memory_gib * 2**30
        if not budget and free is not None:
            budget = max(0, free - self._model.bytes_to_load) + param_bytes(module)
        if self._model.devices > 1:
            budget = 0
        latents = light_slice(module, size, slice_latents, budget)
        needed = slice_bytes(module, *size, latents)
        if memory_gib and needed > budget > 0:
            raise UserError(
                f"config.vae_memory_gib={memory_gib:g}: the light coder takes "
                f"{needed / 2**30:.3g} GiB for one latent frame of {size[1]}x{size[0]}"
            )
        return latents

    def tiles(self, size: tuple[int, int], slice_latents: int, memory_gib: float) -> int:
        """The number of spatial tiles for frames of ``size`` (height, width), padding included.

        Args:
          size: in pixels.
          slice_latents: latent frames of a slice.
          memory_gib: the memory that the autoencoder may take; 0: what the device has left, where
            the device says.

        Raises:
          UserError: ``memory_gib`` is too little even with the most tiles.
        """
        asked = (size, slice_latents, memory_gib)
        if asked not in self._tiles:
            self._tiles[asked] = self._tiles_of(*asked)
        return self._tiles[asked]

    def _tiles_of(self, size: tuple[int, int], slice_latents: int, memory_gib: float) -> int:
        free = free_bytes()
        if self._model.devices > 1 or not (memory_gib or free):
            return 1  # devices that share a clip hold a part of each frame
        estimate = estimate_memory(self._model.coder, *size, slice_latents)
        if not memory_gib:  # the estimate counts parameters of the autoencoder, too
            left = free - self._model.bytes_to_load + estimate.params
            return estimate.tiles_within(max(left, estimate.smallest))
        try:
            return estimate.tiles_within(int(memory_gib * 2**30))
        except ValueError as error:
            raise UserError(f"config.vae_memory_gib={memory_gib:g}: {error}") from error

    def encode(
        self,
        slices: Iterable[Array | HostArray],
        noise: Float[Array, "b t h w c"],
        plan: CodingPlan = DENSE,
    ) -> Float[Array, "b t h w c"]:
        """A sample of the posterior of frames, scaled.

        Args:
          slices: consecutive frames in [-1, 1], (b, f, h, w, 3) each, as ``plan.slices`` cuts them.
            Slices from the host are uploaded while the ones before are computed.
          noise: standard normal, for the whole chunk; zeros give the mean.
          plan: of mode "dense" or "sparse".
        """
        parts = map(self._on_devices, slices)
        if plan.mode == "sparse":
            step = self.sparse_step("encode", plan.slots, plan.all_blocks)
            posteriors = encode_sparse_clip(step, self._model.params["coder"], parts, plan.blocks)
        else:
            posteriors = encode_clip(self._dense(plan.tiles)[0], self._model.params["coder"], parts)
        return self._sample(list(_two_at_a_time(posteriors)), noise)

    def decode(
        self,
        latent: Float[Array, "b t h w c"],
        upscaled: Iterable[Array | HostArray],
        plan: CodingPlan = DENSE,
    ) -> Iterator[Float[Array, "b f h w 3"]]:
        """Frames in about [-1, 1], one slice of ``plan`` after the other.

        Args:
          latent: scaled.
          upscaled: the upscaled input in [-1, 1], as ``plan.slices`` cuts it. A residual decoder
            adds its result to it, and blocks that do not run show it; other decoders ignore it.
          plan: of mode "dense" or "sparse".
        """
        lengths = tuple(latent_slices(latent.shape[1], plan.slice_latents))
        parts = self._unscale(latent, lengths=lengths)
        base = map(self._on_devices, upscaled)
        params, dense = self._model.params["coder"], self._dense(plan.tiles)[1]
        if plan.mode == "sparse":
            step = self.sparse_step("decode", plan.slots, plan.all_blocks)
            if plan.superblocks:
                return sparse_decode.decode_sparse_clip(
                    dense, step, params, parts, base, plan.superblocks
                )
            return decode_sparse_clip(step, params, parts, base, plan.blocks)
        if not self._model.coder.adds_to_upscaled:
            base = None
        return decode_clip(dense, params, parts, base)

    def sparse_step(self, direction: Direction, slots: int, blocks: int) -> Program:
        """The program for frames of ``blocks`` blocks, or slices of so many superblocks, of which
        ``slots`` run."""
        asked = direction, slots, blocks
        if asked not in self._sparse_steps:
            name = f"{direction} {slots} of {blocks} blocks"
            self._sparse_steps[asked] = self._program(name, self._sparse[direction])
        return self._sparse_steps[asked]

    def prepare(self, frames: int, size: tuple[int, int], plan: CodingPlan) -> None:
        """Begins to compile the dense programs for a chunk, all of them at the same time.

        Does nothing on several devices, whose shardings are known when the arrays are there.

        Args:
          frames: of the chunk.
          size: (height, width) in pixels, padding included.
          plan: of mode "dense".
        """
        if self._model.devices > 1:
            return
        encode, decode = self._dense(plan.tiles)
        counts = latent_slices(latent_count(frames), plan.slice_latents)
        slices = dict.fromkeys(zip(frame_slices(padded_count(frames), plan.slice_latents), counts,
                                   strict=True))  # fmt: skip
        kept, caches = self.is_kept(size, plan), (None, None)
        for pictures, latents in slices:  # each length once: the first slice, and those after it
            to_encode, to_decode = self._shapes(size, pictures, latents, caches)
            encode.prepare(*to_encode)
            decode.prepare(*to_decode)
            if kept:  # so are the others, whose shapes only tracing would tell: a run loads them
                return
            if caches == (None, None) and len(slices) > 1:
                caches = encode.shapes(*to_encode)[1], decode.shapes(*to_decode)[1]

    def is_kept(self, size: tuple[int, int], plan: CodingPlan) -> bool:
        """Whether the dense programs for the first slice of any clip can be loaded; as ``prepare``.

        They are kept together with those for the slices after it.
        """
        encode, decode = self._dense(plan.tiles)
        to_encode, to_decode = self._shapes(size, 1, 1, (None, None))
        return encode.is_kept(*to_encode) and decode.is_kept(*to_decode)

    def _shapes(
        self, size: tuple[int, int], pictures: int, latents: int, caches: tuple[Any, Any]
    ) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Arguments of the dense encoder and decoder for a slice: shapes in place of arrays."""
        params, module = self._model.params["coder"], self._model.coder
        latent = (size[0] // SPACE_FACTOR, size[1] // SPACE_FACTOR, module.config.latent_channels)
        x = jax.ShapeDtypeStruct((1, pictures, *size, 3), jnp.float32)
        z = jax.ShapeDtypeStruct((1, latents, *latent), jnp.float32)
        upscaled = x if module.adds_to_upscaled else None
        return (params, x, caches[0]), (params, z, caches[1], upscaled)

    def _dense(self, tiles: int) -> tuple[Program, Program]:
        if tiles not in self._dense_steps:
            module = self._model.coder
            self._dense_steps[tiles] = (
                self._program(f"encode, {tiles} tiles", encode_step(module, tiles)),
                self._program(f"decode, {tiles} tiles", decode_step(module, tiles)),
            )
        return self._dense_steps[tiles]

    def _on_devices(self, frames: Array | HostArray) -> Array:
        """Frames on the devices, each device's spatial shard straight to it."""
        mesh = self._model.mesh
        sharding = None if mesh is None else spatial_sharding(mesh, frames.shape, SPACE_FACTOR)
        return jax.device_put(frames, sharding)
