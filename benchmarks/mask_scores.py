"""Scores the mask predictor and the training-free mask against the oracle, by factor and input.

    python -m benchmarks.mask_scores --folder=../shared/data/eval --out=mask_scores.json
    python -m benchmarks.mask_scores --folder=clips --factors=2 --inputs=clean --checkpoint=mine

Each file is downsampled by area averaging at each of --factors, and becomes each of --inputs:

  clean      rounded to 8 bits
  noise2     with Gaussian noise of a standard deviation of 2 of 255; noise5: of 5
  jpeg75     each frame through JPEG of that quality
  h264_28    through H.264 at that constant rate factor; a picture through JPEG of quality 75

The oracle is Eq. 1 with what was done to the file as D: a patch may be skipped where the bilinear
upscale of the very input is within tau of the truth. A row is the mean over files of the skipped
fractions, of F1 of kept patches, and of the PSNR of skipped patches, shown as that upscale.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.measure import format_table, run_program, write_json
from skipsr_jax.commandline import parse_flags
from skipsr_jax.data.degradation import compression, noise
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.quality import mask_scores
from skipsr_jax.evaluation.true_clips import read_truth
from skipsr_jax.inference.masks import from_input, from_logits, logit_offset, to_unit_range
from skipsr_jax.inference.model import SHIPPED_PREDICTOR, load_predictor
from skipsr_jax.inference.programs import predictor_step
from skipsr_jax.inference.settings import Mask
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.reader import open_media
from skipsr_jax.media.resize import resize
from skipsr_jax.models.predictor import PixelMaskPredictor, cell_weights
from skipsr_jax.tokens.criterion import needs_refinement, patch_mse
from skipsr_jax.types import HostArray, UInt8

INPUTS = ("clean", "noise2", "noise5", "jpeg75", "h264_28")
MULTIPLE = 48
"""Pixels: whole patches, whose inputs have whole pixels at factors of 1.5, 2, 3 and 4."""


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    flags.DEFINE_string("folder", None, "Folder of true clips and pictures.", flag_values=values)
    flags.DEFINE_list("factors", ["1.5", "2", "3", "4"], "Upscaling factors.", flag_values=values)
    flags.DEFINE_list("inputs", list(INPUTS), "What the inputs are like.", flag_values=values)
    text = "Checkpoint of a mask predictor on pixels."
    flags.DEFINE_string("checkpoint", SHIPPED_PREDICTOR, text, flag_values=values)
    flags.DEFINE_integer("frames", 17, "The most frames of each clip (4k + 1).", flag_values=values)
    flags.DEFINE_integer("smallest", 400, "Least pixels on a side.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def degraded(small: HostArray, kind: str) -> UInt8[HostArray, "f h w 3"]:
    """Frames of 0 to 255 as an input of ``kind``."""
    if kind.startswith("noise"):
        sigma = float(kind.removeprefix("noise"))
        small = noise.add_gaussian(small, sigma, False, np.random.default_rng(0))
    codes = np.clip(np.rint(small), 0, 255).astype(np.uint8)
    if kind == "h264_28" and len(codes) > 1:
        return compression.compress(codes, "h264", 28)
    return compression.jpeg(codes, 75) if kind in ("jpeg75", "h264_28") else codes


def rows_of(
    truth: UInt8[HostArray, "f h w 3"], values: flags.FlagValues, logits: Any
) -> Iterator[dict[str, Any]]:
    """The scores of one file for each factor and input. ``logits``: (frames, weights) -> logits."""
    target, unit, mask = truth.shape[1:3], truth / np.float32(255), Mask()
    for factor in map(float, values.factors):
        size = tuple(round(side / factor) for side in target)
        small = resize(truth.astype(np.float32), size, "area")
        for kind in values.inputs:
            low = degraded(small, kind)
            mse = patch_mse(unit, resize(to_unit_range(low), target, "bilinear"))
            oracle = needs_refinement(mse)
            found = np.asarray(logits(low, cell_weights(size, target)))[0]
            predicted = from_logits(found - logit_offset(size, target), mask.probability)
            free = from_input(to_unit_range(low), target, mask.input_tau)
            row = {"factor": factor, "input": kind, "skip_oracle": 1 - float(oracle.mean())}
            for name, keep in (("predictor", predicted), ("training_free", free)):
                scored = mask_scores(keep, oracle, mse)
                row |= {f"{name}_{key}": scored[key] for key in ("skip", "f1", "psnr_skipped")}
            yield row | {"oracle_psnr_skipped": mask_scores(oracle, oracle, mse)["psnr_skipped"]}


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over files for each factor and input."""
    out = []
    for factor, kind in dict.fromkeys((row["factor"], row["input"]) for row in rows):
        found = [row for row in rows if (row["factor"], row["input"]) == (factor, kind)]
        numbers = [key for key in found[0] if key not in ("factor", "input", "name")]
        mean = {key: float(np.mean([row[key] for row in found])) for key in numbers}
        out.append({"factor": factor, "input": kind, "files": len(found)} | mean)
    return out


def main(argv: Sequence[str]) -> int:
    """Scores all files, prints a table of the means and writes all rows as JSON."""
    values = parse_flags(argv, define_flags(), __doc__, example="folder")
    if not values.folder:
        raise UserError("--folder is missing: name a folder of true clips and pictures")
    wrong = [kind for kind in values.inputs if kind not in INPUTS]
    if wrong:
        raise UserError(f"--inputs={','.join(wrong)}: name some of {', '.join(INPUTS)}")
    predictor, params = load_predictor(values.checkpoint, jnp.float32)
    if not isinstance(predictor, PixelMaskPredictor):
        raise UserError(f"{values.checkpoint} holds a predictor on latents: name one on pixels")
    step = predictor_step(predictor)
    rows = []
    for path in list_inputs(values.folder, folder="files"):
        media = open_media(path)
        if min(media.height, media.width) < values.smallest:
            continue
        truth = read_truth(path, values.frames)
        height, width = (side - side % MULTIPLE for side in truth.shape[1:3])
        of_file = rows_of(
            truth[:, :height, :width], values, lambda low, weights: step(params, low, weights)
        )
        rows += ({"name": os.path.basename(path)} | row for row in of_file)
        print(f"{os.path.basename(path)} {truth.shape}", flush=True)
    found = means(rows)
    print(format_table(found))
    if values.out:
        write_json(values.out, {"argv": list(argv), "rows": rows, "means": found})
    return 0


if __name__ == "__main__":
    run_program("mask_scores", main)
