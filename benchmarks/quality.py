"""Quality of a model on a folder of true clips and pictures, skipped and dense beside bicubic.

    python -m benchmarks.quality --folder=../shared/data/eval --out=quality.json
    python -m benchmarks.quality --config=configs/tiny.py --folder=clips --frames=9 --nodense

Each file is made smaller by area averaging (4x, or --scale) and upscaled again. The table gives
PSNR (dB) and SSIM against the truth over the same pixels for all columns, the share of patches that
the mask skipped and that the oracle (Eq. 1) would, and the F1 of the mask's kept patches. Files
smaller than --smallest pixels on a side are left out: they are inputs without a truth.
"""

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Sequence

import numpy as np
from absl import flags

from skipsr_jax import commandline
from skipsr_jax.data.degrade import low_quality, oracle_mask
from skipsr_jax.data.reader import list_inputs, open_media
from skipsr_jax.data.resize import upscale
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.metrics import psnr, ssim
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.report import Report
from skipsr_jax.inference.settings import Settings, from_config
from skipsr_jax.inference.stages import Stages
from skipsr_jax.inference.upscale import upscale_frames

COLUMNS = ("bicubic", "skipped", "dense")
MULTIPLE = 16  # pixels: the oracle's masks need whole patches


def define_flags() -> flags.FlagValues:
    """The flags beside --config."""
    values = flags.FlagValues()
    flags.DEFINE_string("folder", None, "Folder of true clips and pictures.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    flags.DEFINE_integer("frames", 17, "At most so many of each clip (4k + 1).", flag_values=values)
    flags.DEFINE_integer("scale", 4, "How much smaller the input is.", flag_values=values)
    flags.DEFINE_integer("smallest", 400, "Least pixels on a side.", flag_values=values)
    flags.DEFINE_bool("dense", True, "Also run without skipping.", flag_values=values)
    return values


def read_truth(path: os.PathLike, limit: int) -> np.ndarray:
    """The first 4k + 1 frames, cropped to whole patches, uint8."""
    frames = np.stack(list(itertools.islice(open_media(path).frames(), limit)))
    count = (len(frames) - 1) // 4 * 4 + 1
    height, width = (side // MULTIPLE * MULTIPLE for side in frames.shape[1:3])
    frames = frames[:count, :height, :width]
    return frames if frames.dtype == np.uint8 else (frames >> 8).astype(np.uint8)


def run(low: np.ndarray, target: tuple[int, int], stages: Stages, settings: Settings):
    """Upscaled frames in [0, 1], and which of their patches ran."""
    report = Report("", len(low), show=False)
    pairs = list(upscale_frames(iter(low), target, stages, settings, report))
    keep = np.stack([mask for _, mask in pairs])
    return np.stack([frame for frame, _ in pairs]), keep[[0, *range(1, len(keep), 4)]]


def scores(frames: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR and SSIM after rounding to 8 bits, as a file would hold them."""
    rounded = np.rint(np.clip(frames, 0, 1) * 255) / np.float32(255)
    return {"psnr": psnr(rounded, truth), "ssim": ssim(rounded, truth)}


def f1_of(keep: np.ndarray, wanted: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) of the kept patches; 1 where nothing is kept nor wanted."""
    both = 2 * (keep & wanted).sum()
    return float(both / (keep.sum() + wanted.sum())) if keep.any() or wanted.any() else 1.0


def measure(path: os.PathLike, stages: Stages, settings: Settings, values) -> dict:
    """One row of the table."""
    truth = read_truth(path, values.frames)
    low, target = low_quality(truth, values.scale), truth.shape[1:3]
    wanted = oracle_mask(truth, values.scale)
    unit = truth / np.float32(255)
    frames, keep = run(low, target, stages, settings)
    row = {
        "name": os.path.basename(path),
        "frames": len(truth),
        "height": target[0],
        "width": target[1],
        "bicubic": scores(upscale(low, target), unit),
        "skipped": scores(frames, unit),
        "skip": 1 - float(keep.mean()),
        "skip_oracle": 1 - float(wanted.mean()),
        "f1": f1_of(keep, wanted),
    }
    if values.dense:
        dense = dataclasses.replace(
            settings, mask=dataclasses.replace(settings.mask, source="none")
        )
        row["dense"] = scores(run(low, target, stages, dense)[0], unit)
    return row


def line(row: dict) -> str:
    """A row for people."""
    cells = [f"{row['name'][:34]:34s}"]
    for column in COLUMNS:
        found = row.get(column)
        cells.append(f"{found['psnr']:6.2f} {found['ssim']:.4f}" if found else " " * 13)
    cells.append(f"{100 * row['skip']:5.1f} {100 * row['skip_oracle']:5.1f} {row['f1']:.3f}")
    return "  ".join(cells)


def mean(rows: Sequence[dict], name: str) -> dict:
    """The mean over files of every number."""
    out = {"name": f"mean of {len(rows)} {name}"}
    out |= {
        key: float(np.mean([row[key] for row in rows])) for key in ("skip", "skip_oracle", "f1")
    }
    for column in COLUMNS:
        if column in rows[0]:
            out[column] = {
                key: float(np.mean([row[column][key] for row in rows])) for key in ("psnr", "ssim")
            }
    return out


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes the JSON."""
    values, config = commandline.parse(argv, "configs/tiny.py", define_flags(), __doc__)
    if not values.folder:
        raise UserError("--folder is missing: name a folder of true clips and pictures")
    settings = from_config(config)
    model = load_model(settings.checkpoint, settings.dtype, settings.mask.source == "predictor")
    stages = Stages(model)
    header = "".join(f"{column + ' psnr ssim':>15s}" for column in COLUMNS)
    print(f"{'':34s}{header}   skip% oracle F1", flush=True)
    rows = []
    for path in list_inputs(values.folder, folder="files"):
        media = open_media(path)
        if min(media.height, media.width) < values.smallest:
            continue
        rows.append(measure(path, stages, settings, values))
        print(line(rows[-1]), flush=True)
    kinds = {
        "clips": [row for row in rows if row["frames"] > 1],
        "pictures": [row for row in rows if row["frames"] == 1],
    }
    means = [mean(found, name) for name, found in kinds.items() if found]
    for row in means:
        print(line(row))
    if values.out:
        with open(values.out, "w") as file:
            json.dump({"argv": list(argv), "rows": rows, "means": means}, file, indent=1)
    return 0


def run_main() -> None:
    """``main`` with one clear line for what the user can mend."""
    try:
        sys.exit(main(sys.argv))
    except UserError as error:
        print(f"quality: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_main()
