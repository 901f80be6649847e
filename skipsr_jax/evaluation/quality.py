"""Rows of a quality table: skipped and dense results and bicubic upscaling against the truth.

All columns are scored over the same pixels. Training (``loop.quality_every``) and
benchmarks/quality.py both use this module.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.data.oracle import oracle_mask
from skipsr_jax.errors import plural
from skipsr_jax.evaluation.metrics import mask_agreement, psnr, psnr_of_mse, ssim
from skipsr_jax.geometry import PATCH_FRAMES
from skipsr_jax.media.resize import resize, upscale
from skipsr_jax.tokens.criterion import patch_mse
from skipsr_jax.types import Bool, Float, HostArray, UInt8

COLUMNS = ("bicubic", "skipped", "dense")
"""Results that a row has PSNR and SSIM of."""
MASK_COLUMNS = ("skip", "skip_oracle", "precision", "recall", "f1", "psnr_skipped")

Row = dict[str, Any]


def scores(frames: Float[HostArray, "f h w 3"], truth: UInt8[HostArray, "f h w 3"]) -> Row:
    """PSNR (dB) and SSIM of pixels in [0, 1], rounded to 8 bits as a file would hold them."""
    rounded = np.rint(np.clip(frames, 0, 1) * 255) / np.float32(255)
    unit = truth / np.float32(255)
    return {"psnr": psnr(rounded, unit), "ssim": ssim(rounded, unit)}


def mask_scores(
    keep: Bool[HostArray, "t r q"],
    oracle: Bool[HostArray, "t r q"],
    upscaled_mse: Float[HostArray, "t r q"],
) -> Row:
    """What fraction a mask skips, how it agrees with the oracle mask, and the error of skipping.

    Args:
      keep: the mask.
      oracle: Eq. 1's mask of the truth.
      upscaled_mse: mean squared error in each patch of the bilinear upscale of the input, pixels in
        [0, 1].

    Returns:
      ``skip``, the skipped fraction; ``precision``, ``recall`` and ``f1`` of the kept patches
      (`mask_agreement`); ``psnr_skipped``, the PSNR in dB of all skipped patches together when they
      are the bilinear upscale, at most 100 and 100 where nothing is skipped. Each patch has the
      weight of its frames.
    """
    frames = np.full((len(keep), 1, 1), PATCH_FRAMES)
    frames[0] = 1
    weight = ~keep * frames
    mse = float((upscaled_mse * weight).sum() / max(weight.sum(), 1))
    return {
        "skip": 1 - float(keep.mean()),
        **{name: float(value) for name, value in mask_agreement(keep, oracle).items()},
        "psnr_skipped": float(psnr_of_mse(mse)),
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
    """The row of one clip or picture, whose input was ``low_quality(truth, scale)``.

    Args:
      name: of the clip or picture.
      truth: the frames that the input was made from.
      scale: how many times smaller the input is.
      skipped: frames in [0, 1] that the model made with the mask ``keep``, or None.
      keep: the keep mask.
      dense: frames in [0, 1] that the model made without skipping, or None.
      training_free: the training-free mask of the same input, or None.

    Returns:
      The scores of bicubic upscaling and of the results that are not None; ``skip_oracle``, the
      fraction of patches that the oracle (Eq. 1) skips; the `mask_scores` of ``keep``, under
      ``training_free`` those of that mask, and under ``oracle`` those of the oracle's.
    """
    low, target, unit = low_quality(truth, scale), truth.shape[1:3], truth / np.float32(255)
    oracle = oracle_mask(truth, scale)
    upscaled_mse = patch_mse(unit, resize(low / np.float32(255), target, "bilinear"))
    found: Row = {
        "name": name,
        "frames": len(truth),
        "height": truth.shape[1],
        "width": truth.shape[2],
        "bicubic": scores(upscale(low, target), truth),
        "skip_oracle": 1 - float(oracle.mean()),
        **mask_scores(keep, oracle, upscaled_mse),
        "oracle": mask_scores(oracle, oracle, upscaled_mse),
    }
    if training_free is not None:
        found["training_free"] = mask_scores(training_free, oracle, upscaled_mse)
    results = {"skipped": skipped, "dense": dense}
    return found | {key: scores(x, truth) for key, x in results.items() if x is not None}


def mean(rows: Sequence[Row], kind: str) -> Row:
    """A row with the mean over rows of every number. ``kind``: of the rows, "clip" or "picture"."""
    out: Row = {"name": f"mean of {plural(len(rows), kind)}", "kind": kind}
    out |= {key: float(np.mean([row[key] for row in rows])) for key in MASK_COLUMNS}
    for part in (*COLUMNS, "training_free", "oracle"):
        if part in rows[0]:
            keys = rows[0][part]
            out[part] = {key: float(np.mean([row[part][key] for row in rows])) for key in keys}
    return out


def means(rows: Sequence[Row]) -> list[Row]:
    """The mean row of the clips and that of the pictures, if there are any."""
    kinds = {
        "clip": [row for row in rows if row["frames"] > 1],
        "picture": [row for row in rows if row["frames"] == 1],
    }
    return [mean(found, kind) for kind, found in kinds.items() if found]


def header() -> str:
    """The head of a table of `line`."""
    pictures = "".join(f"{column + ' psnr ssim':>15s}" for column in COLUMNS)
    masks = "  skip oracle prec  rec   f1  dB skipped (oracle)  training-free: prec  rec   f1  dB"
    return " " * 34 + pictures + masks


def line(row: Row) -> str:
    """A row as text: PSNR and SSIM, percent skipped, and how the masks agree with the oracle's."""
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
    fractions = " ".join(f"{scores[key]:.3f}" for key in ("precision", "recall", "f1"))
    return f"{fractions} {scores['psnr_skipped']:.2f}"
