"""The rows of a quality table: a model's skipped and dense results beside bicubic, all against the
truth over the same pixels. Training and benchmarks score by this one code.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skipsr_jax.data.degrade import low_quality, oracle_mask
from skipsr_jax.data.resize import upscale
from skipsr_jax.evaluation.metrics import psnr, ssim
from skipsr_jax.types import Bool, Float, HostArray, UInt8

COLUMNS = ("bicubic", "skipped", "dense")
SHARES = ("skip", "skip_oracle", "f1")

Row = dict[str, Any]


def scores(frames: Float[HostArray, "f h w 3"], truth: UInt8[HostArray, "f h w 3"]) -> Row:
    """PSNR (dB) and SSIM of pixels in [0, 1], rounded to 8 bits as a file would hold them."""
    rounded = np.rint(np.clip(frames, 0, 1) * 255) / np.float32(255)
    unit = truth / np.float32(255)
    return {"psnr": psnr(rounded, unit), "ssim": ssim(rounded, unit)}


def f1_of(keep: Bool[HostArray, "t r q"], wanted: Bool[HostArray, "t r q"]) -> float:
    """2 TP / (2 TP + FP + FN) of the kept patches; 1 where nothing is kept nor wanted."""
    both = 2 * (keep & wanted).sum()
    return float(both / (keep.sum() + wanted.sum())) if keep.any() or wanted.any() else 1.0


def row(
    name: str,
    truth: UInt8[HostArray, "f h w 3"],
    scale: int,
    skipped: Float[HostArray, "f h w 3"],
    keep: Bool[HostArray, "t r q"],
    dense: Float[HostArray, "f h w 3"] | None = None,
) -> Row:
    """One clip or picture, whose input was ``low_quality(truth, scale)``.

    ``skipped`` are the frames in [0, 1] that the model made with the mask ``keep``, ``dense`` those
    without skipping. The row has the scores of each, the shares of patches that the mask and the
    oracle (Eq. 1) skip, and the F1 of the kept ones.
    """
    wanted = oracle_mask(truth, scale)
    found: Row = {
        "name": name,
        "frames": len(truth),
        "height": truth.shape[1],
        "width": truth.shape[2],
        "bicubic": scores(upscale(low_quality(truth, scale), truth.shape[1:3]), truth),
        "skipped": scores(skipped, truth),
        "skip": 1 - float(keep.mean()),
        "skip_oracle": 1 - float(wanted.mean()),
        "f1": f1_of(keep, wanted),
    }
    return found if dense is None else found | {"dense": scores(dense, truth)}


def mean(rows: Sequence[Row], name: str) -> Row:
    """The mean over rows of every number."""
    out: Row = {"name": f"mean of {len(rows)} {name}"}
    out |= {key: float(np.mean([row[key] for row in rows])) for key in SHARES}
    for column in COLUMNS:
        if column in rows[0]:
            out[column] = {
                key: float(np.mean([row[column][key] for row in rows])) for key in ("psnr", "ssim")
            }
    return out


def means(rows: Sequence[Row]) -> list[Row]:
    """The mean of the clips and that of the pictures, as far as there are any."""
    kinds = {
        "clips": [row for row in rows if row["frames"] > 1],
        "pictures": [row for row in rows if row["frames"] == 1],
    }
    return [mean(found, name) for name, found in kinds.items() if found]


def line(row: Row) -> str:
    """A row for people."""
    cells = [f"{row['name'][:34]:34s}"]
    for column in COLUMNS:
        found = row.get(column)
        cells.append(f"{found['psnr']:6.2f} {found['ssim']:.4f}" if found else " " * 13)
    cells.append(f"{100 * row['skip']:5.1f} {100 * row['skip_oracle']:5.1f} {row['f1']:.3f}")
    return "  ".join(cells)
