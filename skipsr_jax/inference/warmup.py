"""Compiles every program that inputs of one size can ask for, before the first of them comes.

The whole pipeline runs on made-up frames, twice: once to compile, once to measure how long the
first frame takes from then on. Then the transformer runs once in each bucket of the ladder, and
where the autoencoder may run sparsely, so does each of its programs for fewer blocks: whatever
fraction of a clip is kept, its programs are in the compile cache. Running is the surest way to
compile the very programs that a real input will ask for.
"""

import dataclasses
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from skipsr_jax.geometry import TIME_FACTOR, pad_frames, padded_size, token_grid
from skipsr_jax.inference.coding_plan import sparse_plan
from skipsr_jax.inference.masks import keep_mask
from skipsr_jax.inference.pipeline import upscale_frames
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Chunk, Settings
from skipsr_jax.inference.sparse_coding import may_be_sparse, sparse_up_to
from skipsr_jax.inference.upscaled_input import UpscaledInput
from skipsr_jax.tokens.blocks import slot_numbers
from skipsr_jax.tokens.buckets import ladder


def chunk_lengths(frames: int | None, chunk: Chunk) -> tuple[int, ...]:
    """Lengths of the chunks that a clip is cut into, each once; None: of a clip without an end."""
    if frames is None or frames <= chunk.frames:
        return (chunk.frames if frames is None else frames,)
    rest = (frames - chunk.frames) % (chunk.frames - chunk.overlap)
    return (chunk.frames, chunk.overlap + rest) if rest else (chunk.frames,)


def _first_frame(
    clip: np.ndarray, target: tuple[int, int], programs: Programs, settings: Settings
) -> float:
    """Seconds until the first frame of ``clip`` is there; the others are made too."""
    began = time.perf_counter()
    frames = upscale_frames(iter(clip), target, programs, settings, Report())
    next(frames)
    seconds = time.perf_counter() - began
    for _ in frames:
        pass
    return seconds


def coding_programs(
    clip: np.ndarray,
    target: tuple[int, int],
    programs: Programs,
    settings: Settings,
    fewest: float,
) -> Iterator[str]:
    """Codes the start of ``clip`` in each number of slots that may be asked for; as ``warm_up``."""
    sparse = [name for name in ("encode", "decode") if may_be_sparse(name, programs, settings)]
    coder, kind = programs.coder, programs.model.coder_kind
    per_slice = 1
    if kind == "light":
        plan = coder.dense_plan(padded_size(*target), settings.slice_latents, 0.0)
        per_slice = plan.slice_latents
    clip = pad_frames(clip[: 1 + TIME_FACTOR * per_slice])
    grid = token_grid(len(clip), *target)
    whole = sparse_plan(kind, np.zeros(grid, bool), per_slice)
    if not sparse or whole is None:
        return
    upscaled = UpscaledInput(clip, target, programs.upscale)
    latent = jnp.zeros(coder.latent_shape(grid))
    blocks = whole.all_blocks
    for name in sparse:
        most = 1.0 if getattr(settings, name) == "sparse" else sparse_up_to(kind, settings)
        began = time.perf_counter()
        numbers = slot_numbers(max(1, round(fewest * blocks)), int(most * blocks), blocks)
        for slots in numbers:
            plan = sparse_plan(kind, np.zeros(grid, bool), per_slice, slots)
            slices = upscaled.signed_slices(plan.slices(len(clip)))
            if name == "encode":
                jax.block_until_ready(coder.encode(slices, latent, plan))
            else:
                jax.block_until_ready(list(coder.decode(latent, slices, plan)))
        seconds = time.perf_counter() - began
        if numbers:
            yield (
                f"  {name} on {numbers[0]} to {numbers[-1]} of {blocks} blocks in {seconds:.1f} s: "
                f"{len(numbers)} programs"
            )


def warm_up(
    size: tuple[int, int],
    target: tuple[int, int],
    frames: int | None,
    programs: Programs,
    settings: Settings,
    fewest: float,
) -> Iterator[str]:
    """Compiles for clips of ``size`` to become ``target``, both (height, width); says what it does.

    Args:
      frames: of the clip; None where nobody knows.
      fewest: the smallest fraction of kept patches, 0 to 1, that programs are compiled for.
    """
    rng = np.random.default_rng(0)
    dense = dataclasses.replace(
        settings, mask=dataclasses.replace(settings.mask, source="none", reference="")
    )
    for length in chunk_lengths(frames, settings.chunk):
        clip = rng.integers(0, 256, (length, *size, 3), np.uint8)
        cold, warm = (_first_frame(clip, target, programs, dense) for _ in range(2))
        sizes = f"{size[1]}x{size[0]} -> {target[1]}x{target[0]}, {length} frames"
        yield f"{sizes}: first frame after {cold:.2f} s, warm {warm:.2f} s"
        grid = token_grid(length, *target)
        latent = jnp.zeros(programs.coder.latent_shape(grid))
        if settings.mask.source == "predictor":
            keep_mask(settings.mask, programs, clip, None, target)(latent)
        began, tokens = time.perf_counter(), int(np.prod(grid))
        rungs = ladder(max(1, round(fewest * tokens)), tokens, programs.model.devices)
        for rung in rungs:
            keep = rng.permutation(tokens) < rung  # scattered, as windows of real masks are
            refined, _ = programs.refine(
                latent, keep.reshape(grid), latent, settings.sampler, latent
            )
            jax.block_until_ready(refined)
        seconds = time.perf_counter() - began
        yield f"  {len(rungs)} buckets of {rungs[0]} to {rungs[-1]} tokens in {seconds:.1f} s"
        yield from coding_programs(clip, target, programs, settings, fewest)
