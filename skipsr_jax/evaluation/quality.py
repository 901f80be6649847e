"""The rows of a quality table: a model's skipped and dense results beside bicubic, all against the
truth over the same pixels. Training and benchmarks score by this one code.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skipsr_jax.data.degrade import low_quality, oracle_mask
from skipsr_jax.evaluation.metrics import psnr, ssim
from skipsr_jax.geometry import PATCH_FRAMES
from skipsr_jax.media.resize import resize, upscale
from skipsr_jax.tokens.criterion import patch_mse
from skipsr_jax.types import Bool, Float, HostArray, UInt8

COLUMNS = ("bicubic", "skipped", "dense")
SHARES = ("skip", "skip_oracle", "precision", "recall", "f1", "psnr_skipped")

Row = dict[str, Any]


def scores(frames: Float[HostArray, "f h w 3"], truth: UInt8[HostArray, "f h w 3"]) -> Row:
    """PSNR (dB) and SSIM of pixels in [0, 1], rounded to 8 bits as a file would hold them."""
    rounded = np.rint(np.clip(frames, 0, 1) * 255) / np.float32(255)
    unit = truth / np.float32(255)
    return {"psnr": psnr(rounded, unit), "ssim": ssim(rounded, unit)}


def mask_scores(
    keep: Bool[HostArray, "t r q"],
    wanted: Bool[HostArray, "t r q"],
    lost: Float[HostArray, "t r q"],
) -> Row:
    """What a mask skips, how far it agrees with the oracle's ``wanted``, and what skipping loses.

    Precision, recall and F1 are of the kept patches, 1 where there is nothing to get wrong.
    ``psnr_skipped`` (dB) is of all skipped patches together, each with the weight of its frames,
    shown as the bilinear upscale of the input; 100 at most and where nothing is skipped. ``lost``
    is that picture's mean squared error in each patch, pixels in [0, 1].
    """
    both, kept, true = (float(x.sum()) for x in (keep & wanted, keep, wanted))
    frames = np.full((len(keep), 1, 1), PATCH_FRAMES)
    frames[0] = 1
    weight = ~keep * frames
    error = float((lost * weight).sum() / max(weight.sum(), 1))
    return {
        "skip": 1 - float(keep.mean()),
        "precision": both / kept if kept else 1.0,
        "recall": both / true if true else 1.0,
        "f1": 2 * both / (kept + true) if kept + true else 1.0,
        "psnr_skipped": float(-10 * np.log10(max(error, 1e-10))),
    }


def row(
    name: str,
    truth: UInt8[HostArray, "f h w 3"],
    scale: int,
    skipped: Float[HostArray, "f h w 3"] | None,
    keep: Bool[HostArray, "t r q"],
    dense: Float[HostArray, "f h w 3"] | None = None,
    training_free: Bool[HostArray, "t r q"] | None = None,
) -> Row:
    """One clip or picture, whose input was ``low_quality(truth, scale)``.

    ``skipped`` are the frames in [0, 1] that the model made with the mask ``keep``, ``dense`` those
    without skipping. The row has the scores of each that is given, the shares of patches that the
    mask and the oracle (Eq. 1) skip, and the other ``mask_scores`` of the mask; under
    ``training_free`` those of that mask of the same input, under ``oracle`` those of the oracle's.
    """
    low, target, unit = low_quality(truth, scale), truth.shape[1:3], truth / np.float32(255)
    wanted = oracle_mask(truth, scale)
    lost = patch_mse(unit, resize(low / np.float32(255), target, "bilinear"))
    found: Row = {
        "name": name,
        "frames": len(truth),
        "height": truth.shape[1],
        "width": truth.shape[2],
        "bicubic": scores(upscale(low, target), truth),
        "skip_oracle": 1 - float(wanted.mean()),
        **mask_scores(keep, wanted, lost),
        "oracle": mask_scores(wanted, wanted, lost),
    }
    if training_free is not None:
        found["training_free"] = mask_scores(training_free, wanted, lost)
    made = {"skipped": skipped, "dense": dense}
    return found | {key: scores(x, truth) for key, x in made.items() if x is not None}


def mean(rows: Sequence[Row], name: str) -> Row:
    """The mean over rows of every number."""
    out: Row = {"name": f"mean of {len(rows)} {name}"}
    out |= {key: float(np.mean([row[key] for row in rows])) for key in SHARES}
    for part in (*COLUMNS, "training_free", "oracle"):
        if part in rows[0]:
            keys = rows[0][part]
            out[part] = {key: float(np.mean([row[part][key] for row in rows])) for key in keys}
    return out


def means(rows: Sequence[Row]) -> list[Row]:
    """The mean of the clips and that of the pictures, as far as there are any."""
    kinds = {
        "clips": [row for row in rows if row["frames"] > 1],
        "pictures": [row for row in rows if row["frames"] == 1],
    }
    return [mean(found, name) for name, found in kinds.items() if found]


def header() -> str:
    """What ``line`` shows, column by column."""
    pictures = "".join(f"{column + ' psnr ssim':>15s}" for column in COLUMNS)
    masks = "  skip oracle prec  rec   f1  dB skipped (oracle)  training-free: prec  rec   f1  dB"
    return " " * 34 + pictures + masks


def line(row: Row) -> str:
    """A row for people: percent skipped, the mask against the oracle, and the training-free one."""
    cells = [f"{row['name'][:34]:34s}"]
    for column in COLUMNS:
        found = row.get(column)
        cells.append(f"{found['psnr']:6.2f} {found['ssim']:.4f}" if found else " " * 13)
    cells.append(f"{100 * row['skip']:5.1f} {100 * row['skip_oracle']:5.1f}")
    cells.append(f"{_agreement(row)} ({row['oracle']['psnr_skipped']:.2f})")
    if "training_free" in row:
        cells.append(_agreement(row["training_free"]))
    return "  ".join(cells)


def _agreement(scores: Row) -> str:
    shares = " ".join(f"{scores[key]:.3f}" for key in ("precision", "recall", "f1"))
    return f"{shares} {scores['psnr_skipped']:.2f}"
