"""Sparse against dense coding by the autoencoder: seconds and memory by the share skipped.

    XLA_FLAGS="--xla_gpu_force_conv_nhwc=true --xla_gpu_experimental_enable_conv_fusion=true" \
        python -m benchmarks.vae_sparse --errors=errors.npz --out=vae_sparse.json
    python -m benchmarks.vae_sparse --model=tiny --height=64 --width=64 --frames=5

Random weights and frames, made on the device. Masks are cut from real errors at the quantile that
skips each share: --errors names an .npz of arrays (t, r, q) such as ``masks.input_mse`` gives, one
a clip; without it they are synthetic blobs. ``blocks`` is the share of blocks that run, the first
latent frame included, ``slots`` that with padding. Peak memory is of the process so far: sparse
runs come first, those that skip most before the others.
"""

import sys
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags

from benchmarks.masks import blob_mask
from benchmarks.measure import (
    device_facts,
    format_table,
    median_seconds,
    peak_gib,
    write_json,
)
from benchmarks.vae import MODELS, make, noise
from skipsr_jax.models.vae import SPACE_FACTOR, VAE
from skipsr_jax.models.vae_slices import decode_clip, decode_step
from skipsr_jax.models.vae_sparse_decode import decode_sparse_clip, sparse_decode_step
from skipsr_jax.tokens.blocks import plan_blocks, slots_for
from skipsr_jax.tokens.criterion import PATCH_PIXELS
from skipsr_jax.types import Array, Bool, HostArray


def define_flags() -> flags.FlagValues:
    """The command line."""
    values = flags.FlagValues()
    text = "Which autoencoder."
    flags.DEFINE_enum("model", "seedvr", sorted(MODELS), text, flag_values=values)
    flags.DEFINE_integer("height", 720, "Pixels, a multiple of 16.", flag_values=values)
    flags.DEFINE_integer("width", 1280, "Pixels, a multiple of 16.", flag_values=values)
    flags.DEFINE_integer("frames", 21, "Clip length, 4k + 1.", flag_values=values)
    flags.DEFINE_list("skips", ["0.75", "0.4", "0"], "Shares to skip.", flag_values=values)
    flags.DEFINE_string("errors", None, "Errors of real clips (.npz).", flag_values=values)
    flags.DEFINE_string("dtype", "bfloat16", "Of weights and convolutions.", flag_values=values)
    flags.DEFINE_integer("repeats", 3, "Timed runs of each.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def real_mask(
    errors: HostArray, grid: tuple[int, int, int], skip: float
) -> Bool[HostArray, "t r q"]:
    """The patches of ``grid`` whose error is above the quantile ``skip``; the clip is repeated in
    time, back and forth, until it is long enough. Raises ValueError when it is too small."""
    frames, *size = grid
    if tuple(size) != errors.shape[1:]:
        raise ValueError(f"errors of {errors.shape[1:]} patches do not fit a grid of {grid}")
    there_and_back = np.concatenate([errors, errors[-2:0:-1]])
    errors = there_and_back[np.arange(frames) % len(there_and_back)]
    return errors > np.quantile(errors, skip) if skip > 0 else np.ones(grid, bool)


def clip_masks(
    grid: tuple[int, int, int], skip: float, path: str | None
) -> dict[str, Bool[HostArray, "t r q"]]:
    """One keep mask for each clip, by name."""
    if path is None:
        return {"blobs": blob_mask(grid, skip)}
    with np.load(path) as clips:
        return {name: real_mask(errors, grid, skip) for name, errors in clips.items()}


class Decoding:
    """One clip of random latents, to be decoded either way."""

    def __init__(self, module: VAE, params: dict, frames: int, height: int, width: int):
        self.grid = ((frames - 1) // 4 + 1, height // PATCH_PIXELS, width // PATCH_PIXELS)
        small = (height // SPACE_FACTOR, width // SPACE_FACTOR, module.config.latent_channels)
        self._latent = noise((1, 1, *small))
        self._frames = {n: noise((1, n, height, width, 3)) for n in (1, 4)}
        self._residual, self._params = module.config.residual_decoder, params
        self._dense, self._sparse = decode_step(module), sparse_decode_step(module)

    def _given(self) -> list[Array]:
        return [self._frames[4 if i else 1] for i in range(self.grid[0])]

    def dense(self) -> Array:
        """The last frames of the dense decoder."""
        base = self._given() if self._residual else None
        latents = [self._latent] * self.grid[0]
        for last in decode_clip(self._dense, self._params, latents, base):
            jax.block_until_ready(last)  # frames leave the device slice by slice
        return last

    def sparse(self, keep: Bool[HostArray, "t r q"], slots: int) -> Array:
        """The last frames of the sparse one."""
        plan = plan_blocks(keep, slots)
        latents = [self._latent] * self.grid[0]
        for last in decode_sparse_clip(self._sparse, self._params, latents, self._given(), plan):
            jax.block_until_ready(last)
        return last


def measure_decoding(decoding: Decoding, skips: list[float], values: flags.FlagValues) -> list:
    """Rows of the table."""
    rows, blocks = [], decoding.grid[1] * decoding.grid[2]
    frames = np.array([1] + [4] * (decoding.grid[0] - 1))
    for skip in sorted(skips, reverse=True):
        for name, keep in clip_masks(decoding.grid, skip, values.errors).items():
            slots = slots_for(int(keep[1:].sum(axis=(1, 2)).max(initial=1)), blocks)
            active = keep.sum(axis=(1, 2)).astype(float)
            active[0] = blocks
            seconds = median_seconds(lambda m=keep, n=slots: decoding.sparse(m, n), values.repeats)
            rows.append(
                {
                    "clip": name,
                    "skipped": 1 - keep.mean(),
                    "blocks": (active * frames).sum() / (blocks * frames.sum()),
                    "slots": (slots * 4 * (len(frames) - 1) + blocks) / (blocks * frames.sum()),
                    "sparse_seconds": seconds,
                    "peak_gib": peak_gib(),
                }
            )
            print(rows[-1], flush=True)
    seconds = median_seconds(decoding.dense, values.repeats)
    for row in rows:
        row["dense_seconds"] = seconds
        row["of_dense"] = row["sparse_seconds"] / seconds
    print(f"dense decoding {seconds:.3f} s, peak {peak_gib()} GiB", flush=True)
    return rows


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes the JSON."""
    values = define_flags()
    values(list(argv))
    module, params = make(values.model, np.dtype(values.dtype))
    decoding = Decoding(module, params, values.frames, values.height, values.width)
    rows = measure_decoding(decoding, [float(s) for s in values.skips], values)
    facts = device_facts() | {"size": [values.height, values.width], "frames": values.frames}
    print(f"{facts['device']}, {values.model} {values.width}x{values.height}, {values.dtype}")
    print(format_table(list(rows[0]), [list(row.values()) for row in rows]))
    if values.out:
        write_json(values.out, facts | {"argv": list(argv[1:]), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
