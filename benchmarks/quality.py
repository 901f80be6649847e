"""Measures the quality of a model on a folder of true clips and pictures, against bicubic.

    python -m benchmarks.quality --folder=../shared/data/eval --out=quality.json
    python -m benchmarks.quality --config=tiny --folder=clips --frames=9 --nodense
    python -m benchmarks.quality --folder=../shared/data/eval --nopictures  # the masks alone

Each file is downsampled by area averaging (4x, or --scale) and upscaled again, with skipping and
without. The table gives PSNR (dB) and SSIM against the truth, over the same pixels in all columns;
the fraction of patches that the mask skips and that the oracle (Eq. 1) skips; precision, recall
and F1 of the mask's kept patches; the PSNR of its skipped patches when they are the bilinear
upscale of the input (in brackets that of the oracle's); and the same for the training-free mask.
Files with a side of less than --smallest pixels are left out: they are inputs without a truth.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks.measure import run_program, write_json
from skipsr_jax import commandline
from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.model_run import facts_of_model, line_of_model, upscaled
from skipsr_jax.evaluation.quality import Row, header, line, means, row
from skipsr_jax.evaluation.true_clips import read_truth
from skipsr_jax.inference.masks import from_input, keep_mask
from skipsr_jax.inference.model import chosen_mask, load_model
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Settings, complete, explain, from_config
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.reader import open_media


def define_flags() -> flags.FlagValues:
    """The flags beside --config."""
    values = flags.FlagValues()
    flags.DEFINE_string("folder", None, "Folder of true clips and pictures.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    flags.DEFINE_integer("frames", 17, "The most frames of each clip (4k + 1).", flag_values=values)
    flags.DEFINE_integer("scale", 4, "How many times smaller the input is.", flag_values=values)
    flags.DEFINE_integer("smallest", 400, "Least pixels on a side.", flag_values=values)
    flags.DEFINE_bool("dense", True, "Also run without skipping.", flag_values=values)
    flags.DEFINE_bool("pictures", True, "Also score the pictures.", flag_values=values)
    return values


def mask_alone(low: np.ndarray, target: tuple[int, int], programs: Programs, settings: Settings):
    """The keep mask without upscaling, which takes seconds for a clip.

    Raises UserError for a predictor on the latent, which needs the encoder.
    """
    if settings.mask.source == "predictor" and not programs.masks_from_pixels:
        raise UserError("--nopictures needs a predictor on pixels; this model's takes the latent")
    return keep_mask(settings.mask, programs, low, None, target)(None)


def measure(path: os.PathLike, programs: Programs, settings: Settings, values) -> Row:
    """Measures one file; returns its row."""
    truth = read_truth(path, values.frames, values.scale)
    low, target = low_quality(truth, values.scale), truth.shape[1:3]
    skipped = dense = None
    if values.pictures:
        skipped, keep = upscaled(low, target, programs, settings)
    else:
        keep = mask_alone(low, target, programs, settings)
    if values.pictures and values.dense:
        everything = dataclasses.replace(settings.mask, source="none")
        dense, _ = upscaled(low, target, programs, dataclasses.replace(settings, mask=everything))
    free = from_input(low / np.float32(255), target, settings.mask.input_tau)
    return row(os.path.basename(path), truth, values.scale, skipped, keep, dense, free)


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values, config = commandline.parse(argv, "tiny", define_flags(), __doc__, complete, explain)
    if not values.folder:
        raise UserError("--folder is missing: name a folder of true clips and pictures")
    settings = from_config(config)
    model = load_model(
        settings.checkpoint,
        settings.dtype,
        settings.mask,
        coder=settings.coder,
        precision=settings.precision,
        coder_precision=settings.coder_precision,
        adapter=settings.adapter,
        sharpness=settings.sharpness,
        any_device=True,  # scores do not depend on what the device multiplies fast
    )
    settings = dataclasses.replace(settings, mask=chosen_mask(settings.mask, model))
    programs = Programs(model)
    print(line_of_model(model), header(), sep="\n", flush=True)
    rows = []
    for path in list_inputs(values.folder, folder="files"):
        media = open_media(path)
        if min(media.height, media.width) < values.smallest:
            continue
        rows.append(measure(path, programs, settings, values))
        print(line(rows[-1]), flush=True)
    found = means(rows)
    for of_kind in found:
        print(line(of_kind))
    if values.out:
        facts = {"argv": list(argv), **facts_of_model(model)}
        write_json(values.out, facts | {"rows": rows, "means": found})
    return 0


if __name__ == "__main__":
    run_program("quality", main)
