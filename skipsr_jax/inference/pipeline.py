"""The path of the data, from the frames of a clip to the frames of its upscaled version.

    frames -> upscale to target size -> pad to 4n + 1 and 16, [-1, 1] -> encode -> keep mask
           -> kept tokens through the transformer -> compose -> decode -> colour fix -> pixels of
           skipped patches from the input -> crop and trim -> cross-fade -> convert -> download

Each arrow is one function with arrays in and arrays out; ``_upscale_chunk`` calls them up to the
cross-fade in this order, and the frames stay on the device until they are the codes of a file. Long
clips run in overlapping chunks. Invariants: as many frames come out as go in, each of the target
size; the result is a function of (frames, model, settings), the seed included.
"""

import contextlib
import dataclasses
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax import Array

from skipsr_jax.errors import UserError
from skipsr_jax.geometry import pad_frames, patch_of_frame, token_grid
from skipsr_jax.inference.boundaries import Boundaries
from skipsr_jax.inference.chunks import DeviceFrame, cross_fade, overlapping
from skipsr_jax.inference.coding_plan import CodingPlan
from skipsr_jax.inference.finite_check import FiniteCheck
from skipsr_jax.inference.masks import keep_mask
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Pixels, Settings
from skipsr_jax.inference.sparse_coding import CodingChoice, check_sparse
from skipsr_jax.inference.upscaled_input import UpscaledInput
from skipsr_jax.media.yuv_format import YuvFormat
from skipsr_jax.types import Bool, Float, HostArray

FRAMES_IN_FLIGHT = 8
"""Frames that the device may be asked for before the oldest is downloaded, if that is ready."""
BYTES_IN_FLIGHT = 128 * 2**20
"""Codes that the device may be asked for while the oldest frame is not ready. A slice of the light
coder has 20 frames of 720p: the next one has to be asked for before the device is done with it."""
OutputFormat = YuvFormat | int
"""Planes of YUV; or the bits of RGB: 8, 16, or 32 for float32 in [0, 1], which is not rounded."""
OutputFrame = tuple[list[tuple[HostArray, ...]], Bool[HostArray, "r q"]]
"""The codes of one frame in each format that was asked for, and its keep mask (rows, columns)."""


def decode_and_composite(
    programs: Programs,
    latent: Float[Array, "1 t h w c"],
    upscaled: UpscaledInput,
    keep: Bool[HostArray, "t r q"],
    plan: CodingPlan,
    pixels: Pixels,
    check: FiniteCheck,
) -> Iterator[tuple[Float[Array, "h w 3"], ...]]:
    """The output frames of a chunk in [0, 1], at the target size, one slice after the other.

    Args:
      programs: of the model.
      latent: refined.
      upscaled: the input that skipped patches show; all of them where the plan is to decode
        nothing.
      keep: the mask.
      plan: of the decoder.
      pixels: colour fix and compositing.
      check: is asked of each slice.
    """
    slices = plan.slices(upscaled.count)
    if plan.mode == "skip":
        return map(upscaled.cropped, slices)
    decoded = programs.coder.decode(latent, upscaled.signed_slices(slices), plan)
    keep = keep_of_frames(keep, slices[-1].stop)
    after = {"size": upscaled.target, **dataclasses.asdict(pixels)}

    def composited(frames: Array, part: slice) -> tuple[Float[Array, "h w 3"], ...]:
        pictures, finite = programs.composite(frames, upscaled.unit(part), keep[part], **after)
        check.ask(finite)
        return pictures

    return map(composited, decoded, slices)


def keep_of_frames(keep: Bool[HostArray, "t r q"], frames: int) -> Bool[HostArray, "f r q"]:
    """The mask of each of the first ``frames`` frames."""
    return keep[patch_of_frame(np.arange(frames))]


def _frames_in_flight(codes: Sequence[Sequence[Array]]) -> int:
    """The most frames that the device may be asked for. ``codes``: of one of them."""
    if jax.default_backend() == "cpu":  # which computes no faster for being asked early
        return FRAMES_IN_FLIGHT
    return BYTES_IN_FLIGHT // sum(array.nbytes for array in itertools.chain(*codes))


def convert(
    frame: Float[Array, "h w 3"], output: OutputFormat, programs: Programs
) -> tuple[Array, ...]:
    """The codes of a frame in [0, 1]: three planes, or one array of RGB."""
    if isinstance(output, YuvFormat):
        return programs.to_yuv(frame, target=output)
    return (frame if output == 32 else programs.to_rgb(frame, bits=output),)


def download(
    frames: Iterable[tuple[Float[Array, "h w 3"], Bool[HostArray, "r q"]]],
    formats: Sequence[OutputFormat],
    programs: Programs,
    report: Report,
    check: FiniteCheck,
) -> Iterator[OutputFrame]:
    """Frames as codes on the host, each downloaded while the device makes the ones after it.

    The report is closed at the end: nothing is asked of the device any more. Raises UserError in
    place of the first frame that is not finite.
    """
    in_flight: deque[tuple[list[tuple[Array, ...]], HostArray, int]] = deque()

    def finished() -> OutputFrame:
        codes, keep, slices = in_flight.popleft()
        with report.stage("download"):
            on_host = [tuple(map(np.asarray, arrays)) for arrays in codes]
        check.require(slices)
        return on_host, keep

    with contextlib.closing(report), report.waiting(programs.cache.counts):
        for frame, keep in frames:
            called = report.now()
            codes = [convert(frame, output, programs) for output in formats]
            for array in itertools.chain(*codes):
                array.copy_to_host_async()
            report.watch("decode", codes, called)
            in_flight.append((codes, keep, check.asked))
            limit = _frames_in_flight(codes)
            oldest = itertools.chain(*in_flight[0][0])
            if len(in_flight) > FRAMES_IN_FLIGHT and (
                len(in_flight) > limit or all(array.is_ready() for array in oldest)
            ):
                yield finished()
        while in_flight:
            yield finished()


def _upscale_chunk(
    frames: HostArray,
    truth: HostArray | None,
    target: tuple[int, int],
    number: int,
    programs: Programs,
    settings: Settings,
    report: Report,
    check: FiniteCheck,
) -> Iterator[DeviceFrame]:
    """The output frames of one chunk, whose index in the clip is ``number``, on the device."""
    coder, grid = programs.coder, token_grid(len(frames), *target)
    upscaled = UpscaledInput(pad_frames(frames), target, programs.upscale)
    seed, index = np.uint32(settings.seed), np.uint32(number)
    noise = programs.draw_noise(seed, index, shape=coder.latent_shape(grid))
    choice = CodingChoice(frames, upscaled.padded_size, programs, settings)
    new = float(len(frames) - (settings.chunk.overlap if number else 0))

    with report.stage("mask"):
        mask = keep_mask(settings.mask, programs, frames, truth, target)

    def make_mask(latent: Array | None) -> Bool[HostArray, "t r q"]:
        with report.stage("mask"):
            return mask(latent)

    keep = make_mask(None) if choice.needs_mask_to_encode else None
    encoding, called = choice.encoding(keep), report.now()
    slices = upscaled.signed_slices(encoding.slices(len(frames)))
    latent = coder.encode(slices, noise.posterior, encoding)
    report.watch("encode", latent, called, new)
    if keep is None:
        keep = make_mask(latent)
    fine, called = settings.buckets == "fine", report.now()
    refined, bucket = programs.refine(
        latent, keep, noise.start, settings.sampler, noise.condition, fine
    )
    report.watch("refine", refined, called, new)
    decoding = choice.decoding(keep)
    attention = programs.attention(bucket) if bucket else None
    report.chunk(keep, bucket, attention, {"encode": encoding, "decode": decoding})
    made = decode_and_composite(programs, refined, upscaled, keep, decoding, settings.pixels, check)
    masks = keep_of_frames(keep, len(frames))
    called, index = report.now(), 0
    for pixels in made:
        report.watch("decode", pixels, called, len(pixels) * new / len(frames))
        for frame in pixels[: len(frames) - index]:
            yield frame, masks[index]
            index += 1
        called = report.now()


def upscale_frames(
    frames: Iterable[HostArray],
    target: tuple[int, int],
    programs: Programs,
    settings: Settings,
    report: Report,
    reference: Iterable[HostArray] | None = None,
    formats: Sequence[OutputFormat] = (8,),
    boundaries: Boundaries | None = None,
) -> Iterator[OutputFrame]:
    """Frames at the target size, as codes, each with its keep mask, as they get ready.

    Args:
      frames: of the input, (h, w, 3), uint8 or uint16.
      target: (height, width) in pixels.
      programs: of the model.
      settings: of the run.
      report: where the stages note their time and what was skipped.
      reference: the true frames at the target size; the oracle mask needs them.
      formats: what is made of each frame.
      boundaries: where to go on from, and where to keep what a later run needs to go on.

    Raises:
      UserError: settings that the model or the devices cannot satisfy; a reference that does not
        hold the input's frames, one for one, at the target size; results that are not finite.
    """
    check_sparse(programs, settings)
    report.coder = programs.model.coder_kind
    report.products = programs.model.products
    report.coder_products = programs.model.coder_products
    report.adapter, report.sharpness = programs.model.adapter, programs.model.sharpness
    length, overlap = settings.chunk.frames, settings.chunk.overlap
    boundaries = boundaries or Boundaries()
    boundaries.begin(programs, report)
    inputs = overlapping(frames, length, overlap)
    check = FiniteCheck(programs.model.source, programs.model.dit.dtype)
    truths = itertools.repeat((None, False))
    if reference is not None:
        truths = overlapping(reference, length, overlap)

    def chunks() -> Iterator[tuple[Iterator[DeviceFrame], bool]]:
        for number, (chunk, last) in enumerate(inputs, boundaries.first.chunks):
            truth, _ = next(truths, (None, False))
            if reference is not None and (
                truth is None or truth.shape[:3] != (len(chunk), *target)
            ):
                raise UserError(
                    f"config.mask.reference must hold the input's frames, one for one, at "
                    f"{target[1]}x{target[0]} pixels"
                )
            made = _upscale_chunk(chunk, truth, target, number, programs, settings, report, check)
            yield made, last

    tail, after_chunk = boundaries.first.tail, boundaries.after_chunk
    blended = cross_fade(chunks(), overlap, programs.blend, tail, after_chunk)
    return download(blended, formats, programs, report, check)
