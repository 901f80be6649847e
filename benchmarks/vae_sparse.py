"""Measures sparse against dense coding by the autoencoder, by the fraction of skipped patches.

    python -m benchmarks.vae_sparse --errors=errors.npz --out=vae_sparse.json
    python -m benchmarks.vae_sparse --model=tiny --height=64 --width=64 --frames=5

Parameters and frames are random and made on the device. Masks are made from the errors of real
clips (benchmarks.masks), thresholded at the quantile that skips each fraction; without --errors
they are blobs. ``blocks`` is the fraction of blocks that run, the first latent frame included, and
``slots`` the same with padding. The peak memory is that since the process began: sparse runs come
before dense ones, and those that skip most come first.
"""

from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from benchmarks.masks import clip_masks
from benchmarks.measure import (
    device_facts,
    format_table,
    median_seconds,
    peak_gib,
    run_program,
    write_json,
)
from benchmarks.vae import MODELS, make, noise
from skipsr_jax.commandline import parse_flags
from skipsr_jax.geometry import PATCH_PIXELS, SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.vae import VAE
from skipsr_jax.models.vae.slices import decode_clip, decode_step, encode_clip, encode_step
from skipsr_jax.models.vae.sparse_decode import decode_sparse_clip, sparse_decode_step
from skipsr_jax.models.vae.sparse_encode import encode_sparse_clip, sparse_encode_step
from skipsr_jax.tokens.blocks import Blocks, plan_blocks


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "The autoencoder."
    flags.DEFINE_enum("model", "seedvr", sorted(MODELS), text, flag_values=values)
    flags.DEFINE_integer("height", 720, "Pixels, a multiple of 16.", flag_values=values)
    flags.DEFINE_integer("width", 1280, "Pixels, a multiple of 16.", flag_values=values)
    flags.DEFINE_integer("frames", 21, "Frames of the clip, 4k + 1.", flag_values=values)
    flags.DEFINE_list("skips", ["0.75", "0.4", "0"], "Fractions to skip.", flag_values=values)
    flags.DEFINE_list(
        "directions", ["decode", "encode"], "Decoding, encoding or both.", flag_values=values
    )
    flags.DEFINE_string("errors", None, "Errors of real clips (.npz).", flag_values=values)
    flags.DEFINE_string("dtype", "bfloat16", "Of parameters and convolutions.", flag_values=values)
    flags.DEFINE_integer("repeats", 3, "Timed runs of each.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


class Clip:
    """A clip of random numbers and the steps that encode and decode it, dense and sparse."""

    def __init__(self, module: VAE, params: dict, values: flags.FlagValues):
        height, width = values.height, values.width
        self.latents = (values.frames - 1) // TIME_FACTOR + 1
        self.grid = (self.latents, height // PATCH_PIXELS, width // PATCH_PIXELS)
        small = (height // SPACE_FACTOR, width // SPACE_FACTOR, module.config.latent_channels)
        self._latent = noise((1, 1, *small))
        self._frames = {n: noise((1, n, height, width, 3)) for n in (1, TIME_FACTOR)}
        self._params, self._residual = params, module.config.residual_decoder
        self._steps = {
            "decode": (decode_step(module), sparse_decode_step(module)),
            "encode": (encode_step(module), sparse_encode_step(module)),
        }

    def run(self, direction: str, plan: list[Blocks] | None) -> None:
        """Decodes or encodes the clip.

        ``direction``: ``decode`` or ``encode``. ``plan``: the active blocks of each latent frame;
        None for dense coding.
        """
        frames = [self._frames[TIME_FACTOR if i else 1] for i in range(self.latents)]
        latents = [self._latent] * self.latents
        dense, sparse = self._steps[direction]
        if direction == "decode" and plan is None:
            base = frames if self._residual else None
            parts = decode_clip(dense, self._params, latents, base)
        elif direction == "decode":
            parts = decode_sparse_clip(sparse, self._params, latents, frames, plan)
        elif plan is None:
            parts = encode_clip(dense, self._params, frames)
        else:
            parts = encode_sparse_clip(sparse, self._params, frames, plan)
        for part in parts:
            jax.block_until_ready(part)  # results leave the device slice by slice


def measure(clip: Clip, direction: str, values: flags.FlagValues) -> list[dict]:
    """Measures decoding or encoding; returns a row for each mask."""
    rows, blocks = [], clip.grid[1] * clip.grid[2]
    frames = np.array([1] + [TIME_FACTOR] * (clip.latents - 1))
    for skip in sorted(map(float, values.skips), reverse=True):
        for name, keep in clip_masks(clip.grid, skip, values.errors).items():
            plan = plan_blocks(keep)
            active = np.array([(part.block_index < blocks).sum() for part in plan])
            slots = np.array([len(part.block_index) for part in plan])
            seconds = median_seconds(lambda p=plan: clip.run(direction, p), values.repeats)
            rows.append(
                {
                    "direction": direction,
                    "clip": name,
                    "skipped": float(1 - keep.mean()),
                    "blocks": float((active * frames).sum() / (blocks * frames.sum())),
                    "slots": float((slots * frames).sum() / (blocks * frames.sum())),
                    "seconds": seconds,
                    "peak_gib": peak_gib(),
                }
            )
            print(rows[-1], flush=True)
    seconds = median_seconds(lambda: clip.run(direction, None), values.repeats)
    print(f"dense {direction} {seconds:.3f} s, peak {peak_gib()} GiB", flush=True)
    for row in rows:
        row["dense_seconds"], row["of_dense"] = seconds, row["seconds"] / seconds
    return rows


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    module, params = make(values.model, np.dtype(values.dtype))
    clip = Clip(module, params, values)
    rows = [row for direction in values.directions for row in measure(clip, direction, values)]
    facts = device_facts() | {"size": [values.height, values.width], "frames": values.frames}
    print(f"{facts['device']}, {values.model} {values.width}x{values.height}, {values.dtype}")
    print(format_table(rows))
    if values.out:
        write_json(values.out, facts | {"argv": list(argv[1:]), "rows": rows})
    return 0


if __name__ == "__main__":
    run_program("vae_sparse", main)
