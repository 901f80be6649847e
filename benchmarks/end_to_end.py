"""Measures upscaling a clip, from small frames on the host to large ones: seconds of each stage.

    python -m benchmarks.end_to_end --out=end_to_end.json
    python -m benchmarks.end_to_end --model=tiny --clips=5x64x96 --skips=0,0.5 --dtype=float32
    python -m benchmarks.end_to_end --coder=light --clips=101x720x1280
    python -m benchmarks.end_to_end --masks=real.npy          # as benchmarks.masks writes them
    python -m benchmarks.end_to_end --errors=errors.npz --skips=0.4

It runs the pipeline of infer.py (inference.pipeline) with random parameters and frames. Keep masks
are connected blobs, or are cut from the errors of real clips of the same size, and skip the
fractions --skips; or they are read from files. They replace the mask of the predictor that comes
with the package, which runs on the frames and is waited for. Frames are bytes on the host before
and after; a thread prefetches the results. Reading and writing of files, and what infer.py does
with a frame between the two, is not included. ``total`` is wall-clock time. The first run of a row
compiles and is not counted. The peak memory is that since the process began and rows run in the
order of the flags, so name small clips first.
"""

import dataclasses
import itertools
import pathlib
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array

from benchmarks.masks import clip_masks, load_mask
from benchmarks.measure import (
    clip_size,
    conv_ceiling,
    device_facts,
    format_table,
    matmul_ceiling,
    peak_gib,
    run_program,
    write_json,
)
from benchmarks.models import (
    CONFIGURED,
    TEXT_TOKENS,
    abstract_networks,
    first_device,
    random_parameters,
)
from skipsr_jax.commandline import parse_flags, read_config
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import token_grid
from skipsr_jax.inference.background import prefetch
from skipsr_jax.inference.model import SHIPPED_PREDICTOR, Model, load_predictor
from skipsr_jax.inference.pipeline import upscale_frames
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import CODER_PRECISIONS, CODINGS, Settings, from_config
from skipsr_jax.kernels.quantized import PRECISIONS, UNQUANTIZED
from skipsr_jax.models.presets import VAE_PRESETS
from skipsr_jax.types import DTYPES, Bool, HostArray

CLIPS = ["1x720x1280", "21x720x1280", "101x720x1280", "1x1080x1920", "101x1080x1920"]
STAGES = ("encode", "mask", "refine", "decode")


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "The model; the config of its name says how it runs."
    flags.DEFINE_enum("model", "seedvr2_3b", CONFIGURED, text, flag_values=values)
    text = "frames x height x width of each, at the target size."
    flags.DEFINE_list("clips", CLIPS, text, flag_values=values)
    text = "Fractions of patches that the masks skip."
    flags.DEFINE_list("skips", ["0.75", "0.4", "0"], text, flag_values=values)
    flags.DEFINE_string("errors", None, "Errors of real clips (.npz).", flag_values=values)
    text = "Masks from files (.npy, (t, r, q)), for clips that are not larger."
    flags.DEFINE_list("masks", [], text, flag_values=values)
    text = f"How the autoencoder runs; one or several of {', '.join(CODINGS)}."
    flags.DEFINE_list("coding", ["dense"], text, flag_values=values)
    flags.DEFINE_enum("coder", "full", ["full", "light"], "Which autoencoder.", flag_values=values)
    text = "As config.vae_memory_gib: the full coder runs in spatial tiles that fit."
    flags.DEFINE_float("vae_memory_gib", 0.0, text, 0.0, flag_values=values)
    flags.DEFINE_integer("scale", 4, "How many times smaller the input is.", flag_values=values)
    flags.DEFINE_integer("repeats", 1, "Timed runs of each row.", flag_values=values)
    flags.DEFINE_enum(
        "dtype", "bfloat16", DTYPES, "Of parameters and products.", flag_values=values
    )
    text = "Of the products in the transformer's blocks."
    flags.DEFINE_enum("precision", UNQUANTIZED, PRECISIONS, text, flag_values=values)
    text = "Of the full coder's wide convolutions."
    flags.DEFINE_enum("coder_precision", UNQUANTIZED, CODER_PRECISIONS, text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


@dataclasses.dataclass(frozen=True)
class FixedLogits:
    """The logits of a mask, which are there when those of the predictor have been downloaded."""

    keep: Bool[HostArray, "t r q"]
    predicted: Array

    def __array__(self, *arguments: Any, **options: Any) -> HostArray:
        np.asarray(self.predicted)
        return np.where(self.keep, np.float32(99), np.float32(-99))[None]


class FixedMask(Programs):
    """The programs, with the mask ``keep`` in place of the predictor's, which runs all the same."""

    keep: Bool[HostArray, "t r q"]

    def pixel_logits(self, frames: HostArray, target: tuple[int, int]) -> FixedLogits:
        """The logits of ``keep``, of probability near 0 or 1, for a batch of one clip."""
        return FixedLogits(self.keep, super().pixel_logits(frames, target))


def make_programs(
    name: str, dtype: Any, coder: str, precision: str, coder_precision: str
) -> FixedMask:
    """The programs of a model with random parameters on the first device."""
    mesh = first_device()
    networks = abstract_networks(name, dtype, coder, precision, coder_precision)
    shape = TEXT_TOKENS, networks["dit"].config.text_width
    text = jax.random.normal(jax.random.key(1), shape).astype(dtype)
    params = {part: random_parameters(module, mesh) for part, module in networks.items()}
    params["text"] = {"positive": text}
    predictor, params["predictor"] = load_predictor(SHIPPED_PREDICTOR, dtype, mesh)
    return FixedMask(Model(name, **networks, predictor=predictor, params=params, mesh=mesh))


def settings_of(name: str, coding: str, memory_gib: float = 0.0, coder: str = "full") -> Settings:
    """The settings of the model's config, with the mask of the programs and this coding.

    ``memory_gib``: ``vae_memory_gib``. The light coder is never sparse in encoding.
    """
    encode = "dense" if (coder, coding) == ("light", "sparse") else coding
    settings = dataclasses.replace(from_config(read_config(name)), vae_memory_gib=memory_gib)
    mask = dataclasses.replace(settings.mask, source="predictor", probability=0.5)
    return dataclasses.replace(settings, mask=mask, encode=encode, decode=coding, buckets="fine")


def masks_of(
    grid: tuple[int, int, int], values: flags.FlagValues
) -> Iterator[tuple[str, Bool[HostArray, "t r q"]]]:
    """Yields a name and a mask for each row of a clip.

    Raises UserError for a file that holds no mask.
    """
    if not values.masks:
        for skip in map(float, values.skips):
            for name, keep in clip_masks(grid, skip, values.errors).items():
                yield f"{name}, {100 * skip:g} % skipped", keep
    for path in values.masks:
        keep = load_mask(path)
        if all(side >= needed for side, needed in zip(keep.shape, grid, strict=True)):
            keep = keep[: grid[0], : grid[1], : grid[2]]
            yield f"{pathlib.Path(path).stem}, {100 * (1 - keep.mean()):.1f} % skipped", keep


def run_once(
    frames: HostArray, target: tuple[int, int], programs: Programs, settings: Settings
) -> dict[str, float]:
    """Upscales a clip once; returns the seconds of each stage and in total."""
    report = Report()
    began, count = time.perf_counter(), 0
    for _ in prefetch(upscale_frames(iter(frames), target, programs, settings, report), 8):
        count += 1
    total = time.perf_counter() - began
    if count != len(frames):
        raise RuntimeError(f"{len(frames)} frames were upscaled to {count}")
    return {stage: report.seconds[stage] for stage in STAGES} | {"total": total}


def rows_of(
    clip: str, programs: FixedMask, settings: Settings, values: flags.FlagValues
) -> Iterator[dict[str, Any]]:
    """Measures and yields a row for each mask of a clip, coded as the settings say."""
    count, height, width = clip_size(clip)
    small = (count, height // values.scale, width // values.scale, 3)
    frames = np.random.default_rng(0).integers(0, 256, small, np.uint8)
    for name, keep in masks_of(token_grid(count, height, width), values):
        programs.keep = keep
        runs = [
            run_once(frames, (height, width), programs, settings) for _ in range(1 + values.repeats)
        ]
        seconds = {key: statistics.median(run[key] for run in runs[1:]) for key in runs[0]}
        yield {
            "case": f"{clip}, {name}",
            "coding": settings.decode,
            "kept": int(keep.sum()),
            **{f"{key}_s": value for key, value in seconds.items()},
            "ms_a_frame": 1000 * seconds["total"] / count,
            "peak_gib": peak_gib(),
        }


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    dtype = jnp.dtype(values.dtype)
    sizes = [clip_size(clip) for clip in values.clips]
    wrong = [coding for coding in values.coding if coding not in CODINGS]
    if wrong or not values.coding:
        raise UserError(f"--coding={','.join(values.coding)}: name some of {', '.join(CODINGS)}")
    programs = make_programs(
        values.model, dtype, values.coder, values.precision, values.coder_precision
    )
    widest = VAE_PRESETS[values.model].block_channels[0]
    ceilings = {
        "conv_ceiling_tflops": conv_ceiling((4, *sizes[0][1:], widest), dtype),
        "matmul_ceiling_tflops": matmul_ceiling(dtype, 8192 if values.model != "tiny" else 512),
    }
    facts = device_facts() | {"model": values.model, "coder": values.coder, "dtype": values.dtype}
    products = programs.model.coder_products
    facts |= ceilings | {"precision": values.precision, "coder_products": products}
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    rows = []
    for clip, coding in itertools.product(values.clips, values.coding):
        settings = settings_of(values.model, coding, values.vae_memory_gib, values.coder)
        for row in rows_of(clip, programs, settings, values):
            rows.append(row)
            print(" ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if not rows:
        raise UserError("--masks: none covers any of --clips; name larger masks or smaller clips")
    print(format_table(rows))
    if values.out:
        write_json(values.out, facts | {"argv": list(argv)[1:], "rows": rows})
    return 0


if __name__ == "__main__":
    run_program("end_to_end", main)
