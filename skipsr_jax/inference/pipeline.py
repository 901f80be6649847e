"""The way of the data, from the frames of a clip to the frames of its upscaled version.

    frames -> upscale to target size -> pad to 4n + 1 and 16, [-1, 1] -> encode -> keep mask
           -> kept tokens through the transformer -> compose -> decode -> colour fix -> pixels of
           skipped patches from the input -> crop and trim -> frames

Long clips run in overlapping chunks. Invariants: as many frames come out as go in, each of the
target size; the result is a function of (frames, model, settings), the seed included.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.errors import UserError
from skipsr_jax.geometry import (
    PATCH_FRAMES,
    pad_frames,
    padded_count,
    padded_size,
    spans,
    token_grid,
)
from skipsr_jax.inference import masks
from skipsr_jax.inference.chunks import OutputFrame, joined, overlapping
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Mask, Settings
from skipsr_jax.inference.sparse_coding import Coding, check_sparse, may_be_sparse
from skipsr_jax.inference.upscaled_input import UpscaledInput
from skipsr_jax.models.vae.slices import frame_slices
from skipsr_jax.pixels.colour_fix import fix_colour
from skipsr_jax.pixels.compose import compose_pixels
from skipsr_jax.tokens.blocks import Blocks
from skipsr_jax.tokens.criterion import dilate
from skipsr_jax.types import Bool, Float, HostArray


@dataclasses.dataclass(frozen=True)
class _Noise:
    """All the noise of a chunk, each shaped as its latent."""

    posterior: Float[Array, "1 t v u c"]
    start: Float[Array, "1 t v u c"]
    condition: Float[Array, "1 t v u c"]


def _draw_noise(seed: int, chunk: int, grid: tuple[int, int, int], channels: int) -> _Noise:
    """Standard normal numbers that depend on seed, chunk number and shape alone."""
    shape = (1, grid[0], 2 * grid[1], 2 * grid[2], channels)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), 3)
    return _Noise(*(jax.random.normal(key, shape, jnp.float32) for key in keys))


def _unit(frames: HostArray) -> HostArray:
    """uint8 or uint16 -> float32 in [0, 1]."""
    return frames.astype(np.float32) * np.float32(1 / np.iinfo(frames.dtype).max)


@functools.partial(jax.jit, static_argnames=("size", "colour", "keep_skipped", "feather"))
def _finish(
    decoded: Float[Array, "1 s h w 3"],
    upscaled: Float[Array, "1 s h w 3"],
    keep: Bool[Array, "s r q"],
    size: tuple[int, int],
    colour: str,
    keep_skipped: bool,
    feather: int,
) -> Float[Array, "s h2 w2 3"]:
    """Decoded frames in [-1, 1] -> shown pixels in [0, 1], cropped to ``size``."""
    height, width = size
    given = upscaled[0, :, :height, :width]
    frames = fix_colour(0.5 * decoded[0, :, :height, :width] + 0.5, given, colour)
    if keep_skipped:
        frames = compose_pixels(frames, given, keep, feather)
    return jnp.clip(frames, 0, 1)


def _to_host(slices: Iterable[Array]) -> Iterator[HostArray]:
    """Slices of frames, downloaded while the device computes the next one."""
    before = None
    for frames in slices:
        frames.copy_to_host_async()
        if before is not None:
            yield np.asarray(before)
        before = frames
    if before is not None:
        yield np.asarray(before)


def keep_mask(
    mask: Mask,
    programs: Programs,
    latent: Float[Array, "1 t v u c"] | None,
    frames: HostArray,
    truth: HostArray | None,
    target: tuple[int, int],
) -> Bool[HostArray, "t r q"]:
    """Which patches of a chunk run.

    Args:
      mask: the source and its threshold.
      latent: of the low-quality input, for a predictor on latents.
      frames: the input before upscaling, (f, h, w, 3) uint8 or uint16.
      truth: the true frames at the target size, for the oracle.
      target: (height, width) in pixels.
    """
    if mask.source == "predictor":
        pixels = programs.masks_from_pixels
        given = masks.predictor_frames(_unit(frames), target)[None] if pixels else latent
        logits = np.asarray(programs.mask_logits(given), np.float32)[0]
        if pixels:
            logits = masks.on_token_grid(logits, frames.shape[1:3], target)
        keep = masks.from_logits(logits, mask.probability)
    elif mask.source == "input":
        keep = masks.from_input(_unit(frames), target, mask.input_tau)
    elif mask.source == "oracle":
        keep = masks.from_reference(_unit(truth), mask.oracle_tau)
    else:
        keep = masks.dense(token_grid(len(frames), *target))
    return dilate(keep, mask.dilate)


def _upscale_chunk(
    frames: HostArray,
    truth: HostArray | None,
    target: tuple[int, int],
    number: int,
    programs: Programs,
    settings: Settings,
    report: Report,
) -> Iterator[OutputFrame]:
    """The way of the data for one chunk, whose place in the clip is ``number``."""
    count, overlap = len(frames), settings.chunk.overlap if number else 0
    channels = programs.model.vae.config.latent_channels
    noise = _draw_noise(settings.seed, number, token_grid(count, *target), channels)
    given = UpscaledInput(pad_frames(frames), target, programs.model.mesh)
    padded = padded_size(*target)
    tiles = programs.tiles(padded, settings.slice_latents, settings.vae_memory_gib)

    def slices(plan: list[Blocks] | None) -> list[slice]:
        per_slice = settings.slice_latents if plan is None else 1
        return spans(frame_slices(padded_count(count), per_slice))

    def masked(latent: Array | None) -> Bool[HostArray, "t r q"]:
        with report.stage("mask"):
            return keep_mask(settings.mask, programs, latent, frames, truth, target)

    coding = Coding(frames, tiles, programs, settings)
    ahead = may_be_sparse("encode", programs, settings)
    keep = masked(None) if ahead else None
    plan = coding.blocks("encode", keep) if ahead else None
    with report.stage("encode"):
        signed = map(given.signed, slices(plan))
        latent = programs.encode(signed, noise.posterior, tiles, plan)
        latent.block_until_ready()
    report.blocks("encode", plan, token_grid(count, *target))
    report.advance("encode", count - overlap)
    keep = keep if ahead else masked(latent)
    with report.stage("refine"):
        refined, bucket = programs.refine(
            latent, keep, noise.start, settings.sampler, noise.condition
        )
        refined.block_until_ready()
    report.advance("refine", count - overlap)
    report.chunk(keep, bucket)

    plan = coding.blocks("decode", keep)
    if bucket is None and settings.pixels.keep_skipped:
        plan = []
    report.blocks("decode", plan, keep.shape)
    walk = slices(plan)
    keep = keep[(np.arange(walk[-1].stop) + PATCH_FRAMES - 1) // PATCH_FRAMES]  # of each frame
    if plan == []:  # decoding would leave no trace
        shown = (given.unit(part)[0, :, : target[0], : target[1]] for part in walk)
    else:
        after = dataclasses.asdict(settings.pixels)
        signed = map(given.signed, walk)
        decoded = programs.decode(refined, signed, settings.slice_latents, tiles, plan)
        shown = (
            _finish(pixels, given.unit(part), keep[part], target, **after)
            for pixels, part in zip(decoded, walk, strict=True)
        )
    on_host = _to_host(shown)
    for part in walk:
        with report.stage("decode"):
            pixels = next(on_host)
        for frame in range(part.start, min(part.stop, count)):
            report.advance("decode", int(frame >= overlap))
            yield pixels[frame - part.start], keep[frame]


def upscale_frames(
    frames: Iterable[HostArray],
    target: tuple[int, int],
    programs: Programs,
    settings: Settings,
    report: Report,
    reference: Iterable[HostArray] | None = None,
) -> Iterator[OutputFrame]:
    """Frames at the target size, pixels in [0, 1], each with its keep mask, as they get ready.

    Args:
      frames: of the input, (h, w, 3), uint8 or uint16.
      target: (height, width) in pixels.
      programs: of the model.
      settings: of the run.
      report: where the stages note their time and what was skipped.
      reference: the true frames at the target size; the oracle mask needs them.
    """
    check_sparse(programs, settings)
    length, overlap = settings.chunk.frames, settings.chunk.overlap
    inputs = overlapping(frames, length, overlap)
    truths = itertools.repeat((None, False))
    if reference is not None:
        truths = overlapping(reference, length, overlap)

    def chunks() -> Iterator[tuple[Iterator[OutputFrame], bool]]:
        for number, (piece, last) in enumerate(inputs):
            truth, _ = next(truths, (None, False))
            if reference is not None and (
                truth is None or truth.shape[:3] != (len(piece), *target)
            ):
                raise UserError(
                    f"config.mask.reference must hold the input's frames, one for one, at "
                    f"{target[1]}x{target[0]} pixels"
                )
            yield _upscale_chunk(piece, truth, target, number, programs, settings, report), last

    return joined(chunks(), overlap)
