"""The metrics by name: what each means, whether it needs a truth, and what it needs to run."""

import dataclasses
import math
from collections.abc import Callable, Sequence

from skipsr_jax.config import suggestion
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.clips import OpenPair
from skipsr_jax.evaluation.measures import (
    crispness,
    dists,
    lpips,
    ms_ssim,
    niqe,
    packages,
    pixel,
    temporal,
    vmaf,
)
from skipsr_jax.evaluation.measures.stream import FrameMean, Score
from skipsr_jax.evaluation.measures.weights import Weights

HIGHER, LOWER = math.inf, -math.inf
Maker = Callable[[OpenPair], Score]
"""Begins the score of a clip."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
      about: its definition, in a line.
      best: the value nearest to which is best: infinity where higher is better, -infinity where
        lower.
      needs_truth: whether it compares with a truth.
      prepare: loads what it needs; raises UserError, whose message says what is missing.
      doubt: why a value of frames of (height, width) says little; "" where it does not.
    """

    about: str
    best: float
    needs_truth: bool
    prepare: Callable[[Weights], Maker]
    doubt: Callable[[tuple[int, int]], str] = lambda size: ""


def _mean_of(function: Callable) -> Maker:
    return lambda pair: FrameMean(function)


def _plain(function: Callable) -> Callable[[Weights], Maker]:
    return lambda weights: _mean_of(function)


def _pyiqa(name: str) -> Callable[[Weights], Maker]:
    return lambda weights: _mean_of(packages.pyiqa_metric(name))


def _dover(weights: Weights) -> Maker:
    folder = packages.find_dover(weights)
    return lambda pair: packages.Dover(folder, pair.pair.result)


def _vmaf_neg(weights: Weights) -> Maker:
    ffmpeg = vmaf.find_ffmpeg()
    return lambda pair: vmaf.VmafNeg(ffmpeg, pair)


def _niqe(weights: Weights) -> Maker:
    model = niqe.load_model(weights)
    weights.used[model.source] = "NIQE's model of natural pictures"
    return _mean_of(niqe.make(model))


METRICS = {
    "psnr": Metric("PSNR of RGB in dB, at most 80", HIGHER, True, _plain(pixel.psnr)),
    "psnr_y": Metric("PSNR of luma in dB, at most 80", HIGHER, True, _plain(pixel.psnr_y)),
    "ssim": Metric("SSIM of luma", HIGHER, True, _plain(pixel.ssim)),
    "ms_ssim": Metric("MS-SSIM of luma, five scales", HIGHER, True, _plain(ms_ssim.ms_ssim)),
    "lpips": Metric(
        "LPIPS v0.1 with AlexNet", LOWER, True, lambda w: _mean_of(lpips.make("alex", w.read))
    ),
    "lpips_vgg": Metric(
        "LPIPS v0.1 with VGG16", LOWER, True, lambda w: _mean_of(lpips.make("vgg", w.read))
    ),
    "dists": Metric("DISTS", LOWER, True, lambda w: _mean_of(dists.make(w.read))),
    "vmaf_neg": Metric(f"VMAF-NEG, model {vmaf.MODEL}", HIGHER, True, _vmaf_neg),
    "flicker": Metric(
        "mean absolute error of frame differences, in codes of 0..255",
        LOWER, True, lambda w: lambda pair: temporal.Flicker(),
    ),
    "tpsnr": Metric(
        "PSNR of frame differences in dB, without motion compensation",
        HIGHER, True, lambda w: lambda pair: temporal.TemporalPsnr(),
    ),
    "crispness": Metric(
        "mean absolute horizontal difference of luma over the truth's; 1: as crisp as the truth",
        1.0, True, _plain(crispness.crispness),
    ),
    "niqe": Metric("NIQE of luma", LOWER, False, _niqe, niqe.doubt),
    "brisque": Metric("BRISQUE of luma, by pyiqa", LOWER, False, _pyiqa("brisque")),
    "musiq": Metric("MUSIQ (KonIQ-10k), by pyiqa", HIGHER, False, _pyiqa("musiq")),
    "clipiqa": Metric("CLIP-IQA (RN50), by pyiqa", HIGHER, False, _pyiqa("clipiqa")),
    "dover": Metric("DOVER, fused score in 0..1, by its own program", HIGHER, False, _dover),
}  # fmt: skip
"""All metrics. A value is the mean over a clip's frames, but for DOVER, which takes the clip."""

WITH_TRUTH = ("psnr", "psnr_y", "ssim", "ms_ssim", "flicker", "tpsnr")
WITHOUT_TRUTH = ("niqe",)
"""What is computed where a user names no metrics: what needs no files beside the package."""


def prepare(names: Sequence[str], weights: Weights, has_truth: bool) -> dict[str, Maker]:
    """Loads what the metrics need; returns what begins the score of a clip, by name.

    Args:
      names: of `METRICS`.
      weights: where files are looked for.
      has_truth: whether results have truths.

    Raises:
      UserError: there is no name, a name is unknown, or a metric cannot run; the message says for
        each that cannot what to install or where to get its files.
    """
    if not names:
        raise UserError(f"--metrics is empty: name some of {', '.join(METRICS)}")
    makers, refused = {}, []
    for name in names:
        if name not in METRICS:
            hint = suggestion(name.lower(), list(METRICS))
            raise UserError(f"there is no metric {name!r}: {hint}")
        if METRICS[name].needs_truth and not has_truth:
            refused.append(f"{name}: compares with a truth: name it with --truth")
            continue
        try:
            makers[name] = METRICS[name].prepare(weights)
        except UserError as error:
            refused.append(f"{name}: {error}")
    if refused:
        raise UserError("; ".join(refused))
    return makers


def arrow(name: str) -> str:
    """↑ where higher values of a metric are better, ↓ where lower, →1 where those nearest to 1."""
    best = METRICS[name].best
    return {HIGHER: "↑", LOWER: "↓"}.get(best, f"→{best:g}")
