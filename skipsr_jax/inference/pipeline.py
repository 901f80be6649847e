"""The path of the data, from the frames of a clip to the frames of its upscaled version.

    frames -> upscale to target size -> pad to 4n + 1 and 16, [-1, 1] -> encode -> keep mask
           -> kept tokens through the transformer -> compose -> decode -> colour fix -> pixels of
           skipped patches from the input -> crop and trim -> frames

Each arrow is one function with arrays in and arrays out; ``_upscale_chunk`` calls them in this
order. Long clips run in overlapping chunks. Invariants: as many frames come out as go in, each of
the target size; the result is a function of (frames, model, settings), the seed included.
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
from skipsr_jax.geometry import pad_frames, patch_of_frame, token_grid
from skipsr_jax.inference.chunks import OutputFrame, cross_fade, overlapping
from skipsr_jax.inference.coder import Coder, CodingPlan
from skipsr_jax.inference.masks import keep_mask
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Pixels, Settings
from skipsr_jax.inference.sparse_coding import CodingChoice, check_sparse
from skipsr_jax.inference.upscaled_input import UpscaledInput
from skipsr_jax.pixels.colour_fix import fix_colour
from skipsr_jax.pixels.compose import compose_pixels
from skipsr_jax.types import Bool, DType, Float, HostArray


@dataclasses.dataclass(frozen=True)
class Noise:
    """All the noise of a chunk, each array shaped as its latent."""

    posterior: Float[Array, "1 t h w c"]
    start: Float[Array, "1 t h w c"]
    condition: Float[Array, "1 t h w c"]


def draw_noise(seed: int, chunk: int, shape: tuple[int, ...]) -> Noise:
    """Standard normal numbers that depend on the seed, the chunk's number and the shape alone."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), chunk), 3)
    return Noise(*(jax.random.normal(key, shape, jnp.float32) for key in keys))


@functools.partial(jax.jit, static_argnames=("size", "pixels"))
def _composite(
    decoded: Float[Array, "1 f h w 3"],
    upscaled: Float[Array, "1 f h w 3"],
    keep: Bool[Array, "f r q"],
    size: tuple[int, int],
    pixels: Pixels,
) -> Float[Array, "f h2 w2 3"]:
    """Decoded frames in [-1, 1] -> the composited output in [0, 1], cropped to ``size``."""
    height, width = size
    reference = upscaled[0, :, :height, :width]
    frames = fix_colour(0.5 * decoded[0, :, :height, :width] + 0.5, reference, pixels.colour)
    if pixels.keep_skipped:
        frames = compose_pixels(frames, reference, keep, pixels.feather)
    return jnp.clip(frames, 0, 1)


def decode_and_composite(
    coder: Coder,
    latent: Float[Array, "1 t h w c"],
    upscaled: UpscaledInput,
    keep: Bool[HostArray, "t r q"],
    plan: CodingPlan,
    pixels: Pixels,
) -> Iterator[Float[Array, "f h w 3"]]:
    """The output frames of a chunk in [0, 1], at the target size, one slice after the other.

    Args:
      coder: with the decoder.
      latent: refined.
      upscaled: the input that skipped patches show; all of them where the plan is to decode
        nothing.
      keep: the mask.
      plan: of the decoder.
      pixels: colour fix and compositing.
    """
    slices = plan.slices(upscaled.count)
    if plan.mode == "skip":
        return map(upscaled.cropped, slices)
    decoded = coder.decode(latent, upscaled.signed_slices(slices), plan)
    keep = keep_of_frames(keep, slices[-1].stop)
    return (
        _composite(frames, upscaled.unit(part), keep[part], upscaled.target, pixels)
        for frames, part in zip(decoded, slices, strict=True)
    )


def keep_of_frames(keep: Bool[HostArray, "t r q"], frames: int) -> Bool[HostArray, "f r q"]:
    """The mask of each of the first ``frames`` frames."""
    return keep[patch_of_frame(np.arange(frames))]


def download(slices: Iterable[Float[Array, "f h w 3"]]) -> Iterator[Float[HostArray, "f h w 3"]]:
    """Slices of frames on the host, each downloaded while the device computes the next one."""
    before = None
    for frames in slices:
        frames.copy_to_host_async()
        if before is not None:
            yield np.asarray(before)
        before = frames
    if before is not None:
        yield np.asarray(before)


def quantise(frame: Float[HostArray, "h w 3"], dtype: DType) -> HostArray:
    """Pixels in [0, 1] -> uint8 or uint16 on the full scale of ``dtype``, rounded to nearest."""
    return np.rint(frame * np.float32(np.iinfo(dtype).max)).astype(dtype)


def _upscale_chunk(
    frames: HostArray,
    truth: HostArray | None,
    target: tuple[int, int],
    number: int,
    programs: Programs,
    settings: Settings,
    report: Report,
) -> Iterator[OutputFrame]:
    """The output frames of one chunk, whose index in the clip is ``number``."""
    coder, grid = programs.coder, token_grid(len(frames), *target)
    upscaled = UpscaledInput(pad_frames(frames), target, programs.model.mesh)
    noise = draw_noise(settings.seed, number, coder.latent_shape(grid))
    choice = CodingChoice(frames, upscaled.padded_size, programs, settings)
    overlap = settings.chunk.overlap if number else 0

    def make_mask(latent: Array | None) -> Bool[HostArray, "t r q"]:
        with report.stage("mask"):
            return keep_mask(settings.mask, programs, latent, frames, truth, target)

    keep = make_mask(None) if choice.needs_mask_to_encode else None
    encoding = choice.encoding(keep)
    with report.stage("encode"):
        slices = upscaled.signed_slices(encoding.slices(len(frames)))
        latent = coder.encode(slices, noise.posterior, encoding)
        latent.block_until_ready()
    report.advance("encode", len(frames) - overlap)
    if keep is None:
        keep = make_mask(latent)
    with report.stage("refine"):
        refined, bucket = programs.refine(
            latent, keep, noise.start, settings.sampler, noise.condition
        )
        refined.block_until_ready()
    report.advance("refine", len(frames) - overlap)
    decoding = choice.decoding(keep)
    attention = programs.attention(bucket) if bucket else None
    report.chunk(keep, bucket, attention, {"encode": encoding, "decode": decoding})

    made = decode_and_composite(coder, refined, upscaled, keep, decoding, settings.pixels)
    pixels = _timed_frames(download(made), report)
    masks = keep_of_frames(keep, len(frames))
    for index, frame in enumerate(itertools.islice(pixels, len(frames))):
        report.advance("decode", int(index >= overlap))
        yield frame, masks[index]


def _timed_frames(
    slices: Iterator[Float[HostArray, "f h w 3"]], report: Report
) -> Iterator[Float[HostArray, "h w 3"]]:
    """The single frames of slices, the making of which is counted as decoding."""
    while True:
        with report.stage("decode"):
            frames = next(slices, None)
        if frames is None:
            return
        yield from frames


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

    Raises:
      UserError: settings that the model or the devices cannot satisfy; a reference that does not
        hold the input's frames, one for one, at the target size.
    """
    check_sparse(programs, settings)
    report.mask_source = settings.mask.source
    length, overlap = settings.chunk.frames, settings.chunk.overlap
    inputs = overlapping(frames, length, overlap)
    truths = itertools.repeat((None, False))
    if reference is not None:
        truths = overlapping(reference, length, overlap)

    def chunks() -> Iterator[tuple[Iterator[OutputFrame], bool]]:
        for number, (chunk, last) in enumerate(inputs):
            truth, _ = next(truths, (None, False))
            if reference is not None and (
                truth is None or truth.shape[:3] != (len(chunk), *target)
            ):
                raise UserError(
                    f"config.mask.reference must hold the input's frames, one for one, at "
                    f"{target[1]}x{target[0]} pixels"
                )
            yield _upscale_chunk(chunk, truth, target, number, programs, settings, report), last

    return cross_fade(chunks(), overlap)
