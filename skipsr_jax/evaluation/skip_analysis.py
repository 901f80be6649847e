"""What skipping does to true clips: the numbers of the paper's Tables 1 and 4 and Figure 5b.

For each clip: the fraction of patches that the oracle mask (Eq. 1) skips at tau and at other
thresholds, how many operations of the transformer that saves, and, by `LatentSwap`, the PSNR, SSIM
and LPIPS of what is left; then the same for the masks that need no truth. Clips run in chunks, so
that one of any length takes bounded memory.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.data.oracle import oracle_error
from skipsr_jax.errors import plural
from skipsr_jax.evaluation.latent_swap import LatentSwap
from skipsr_jax.evaluation.measures import pixel
from skipsr_jax.evaluation.measures.stream import FrameMean, Picture
from skipsr_jax.evaluation.metrics import mask_agreement
from skipsr_jax.evaluation.speedup import MeasuredTimes, operations
from skipsr_jax.evaluation.true_clips import chunks
from skipsr_jax.inference.masks import from_input, keep_mask
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Mask, Settings
from skipsr_jax.media.reader import Media
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.tokens.criterion import needs_refinement
from skipsr_jax.types import Bool, HostArray, UInt8

Row = dict[str, Any]
FrameMetric = Callable[[Picture, Picture], float]
TAUS = (2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3)
"""The sweep of Figure 5b; the paper's choice, 2e-4, is among them."""
ORACLE, PREDICTOR, TRAINING_FREE = "oracle", "predictor", "training_free"
MASKS = (ORACLE, PREDICTOR, TRAINING_FREE)
RECONSTRUCTION = "reconstruction"


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What is computed of each clip.

    Attributes:
      tau: threshold of the oracle mask.
      taus: thresholds of the sweep.
      scale: how many times smaller the input is.
      chunk: frames of a chunk, 4k + 1.
      limit: the most frames of a clip, 4k + 1; 0: all.
      swap: whether to run the autoencoder.
      programs, settings: of the model; None: neither swap nor predictor.
      transformer: whose operations are counted.
      times: measured times; None: there are none.
      lpips: the metric, or None where its weights are not there.
    """

    tau: float
    taus: tuple[float, ...]
    scale: int
    chunk: int
    limit: int
    swap: bool
    programs: Programs | None
    settings: Settings | None
    transformer: DiTConfig
    times: MeasuredTimes | None = None
    lpips: FrameMetric | None = None


class _Sums:
    """The sums of one mask over the chunks of a clip: what it skips, and what is left."""

    def __init__(self, metrics: Mapping[str, FrameMetric]):
        self._metrics = {name: FrameMean(metric) for name, metric in metrics.items()}
        self._to_whole = FrameMean(pixel.psnr)
        self._kept: list[Bool[HostArray, "t r q"]] = []
        self.operations = 0.0

    def add(self, keep: Bool[HostArray, "t r q"]) -> None:
        """Takes the mask of patches that no chunk had before."""
        self._kept.append(keep)

    def score(
        self, frames: Sequence[Picture], truth: Sequence[Picture], whole: Sequence[Picture]
    ) -> None:
        """Scores frames against the truth, and against the reconstruction without skipping."""
        for metric in self._metrics.values():
            for result, target in zip(frames, truth, strict=True):
                metric.add(result, target)
        for result, target in zip(frames, whole, strict=True):
            self._to_whole.add(result, target)

    @property
    def keep(self) -> Bool[HostArray, "t r q"]:
        """The mask of the whole clip."""
        return np.concatenate(self._kept)

    def row(self) -> Row:
        """The skipped fraction, and the scores if frames were scored."""
        found: Row = {"skip": 1 - float(self.keep.mean())}
        if self._to_whole.count:
            found |= {name: metric.value() for name, metric in self._metrics.items()}
            found["psnr_swap"] = self._to_whole.value()
        return found


class _Clip:
    """The sums of one clip, chunk by chunk."""

    def __init__(self, analysis: Analysis):
        self._analysis = analysis
        self._metrics: dict[str, FrameMetric] = {"psnr": pixel.psnr, "ssim": pixel.ssim}
        if analysis.lpips is not None:
            self._metrics["lpips"] = analysis.lpips
        self.sums: dict[str | float, _Sums] = {}
        self.frames, self._dense = 0, 0.0
        self.size = 0, 0

    def add(self, frames: UInt8[HostArray, "f h w 3"]) -> None:
        """Takes a chunk, as `chunks` yields them."""
        analysis = self._analysis
        new = 1 if self.frames else 0  # the first frame of a later chunk was in the one before
        self.frames += len(frames) - new
        self.size = frames.shape[1], frames.shape[2]
        small = low_quality(frames, analysis.scale)
        error = oracle_error(frames, analysis.scale)
        swap = None
        if analysis.programs is not None:
            swap = LatentSwap(frames, small, analysis.scale, analysis.programs, analysis.settings)
        masks: dict[str | float, HostArray] = dict(_masks(error, frames, small, swap, analysis))
        everything = np.ones_like(masks[ORACLE])
        self._dense += operations(analysis.transformer, everything)
        for kind, keep in masks.items():
            self._of(kind).operations += operations(analysis.transformer, keep)
        masks |= {tau: needs_refinement(error, tau) for tau in analysis.taus}
        if analysis.swap:
            masks[RECONSTRUCTION] = everything
            self._score(masks, [Picture(frame) for frame in frames], swap, new)
        for kind, keep in masks.items():
            self._of(kind).add(keep[new:])

    def _of(self, kind: str | float) -> _Sums:
        return self.sums.setdefault(kind, _Sums(self._metrics))

    def _score(
        self,
        masks: Mapping[str | float, HostArray],
        truth: Sequence[Picture],
        swap: LatentSwap,
        new: int,
    ) -> None:
        whole = [Picture(frame) for frame in swap.decoded(masks[RECONSTRUCTION])[new:]]
        decoded = {masks[RECONSTRUCTION].tobytes(): whole}
        for kind, keep in masks.items():
            key = keep.tobytes()
            if key not in decoded:  # masks of two thresholds may be one
                decoded[key] = [Picture(frame) for frame in swap.decoded(keep)[new:]]
            self._of(kind).score(decoded[key], truth[new:], whole)

    def row(self) -> Row:
        """All numbers of the clip."""
        analysis = self._analysis
        kinds = [kind for kind in (*MASKS, RECONSTRUCTION) if kind in self.sums]
        found: Row = {kind: self.sums[kind].row() for kind in kinds}
        for kind in (kind for kind in kinds if kind != RECONSTRUCTION):
            ran = self.sums[kind].operations
            found[kind]["speedup"] = self._dense / ran if ran else None
            if analysis.times is not None:
                found[kind]["measured"] = {
                    name: analysis.times.speedup(stage, found[kind]["skip"])
                    for name, stage in {"transformer": "refine", "pipeline": "total"}.items()
                }
            if kind != ORACLE:
                agreement = mask_agreement(self.sums[kind].keep, self.sums[ORACLE].keep)
                found[kind]["f1"] = float(agreement["f1"])
        found["sweep"] = [{"tau": tau} | self.sums[tau].row() for tau in analysis.taus]
        return found


def analyse(name: str, media: Media, analysis: Analysis) -> Row:
    """The row of one clip or picture.

    Returns:
      ``name``, ``frames``, ``height``, ``width`` and ``kind`` ("clip" or "picture") of what is
      analysed; under each mask's name ``skip`` (the fraction), ``speedup`` (of the transformer's
      operations; None where all is skipped), ``measured`` (of the transformer and of the pipeline,
      where there are times), ``f1`` against the oracle mask, and with the swap ``psnr``, ``ssim``
      and ``lpips`` against the truth and ``psnr_swap`` against the reconstruction without skipping;
      these scores of ``reconstruction``; and ``sweep``, a list of ``tau``, ``skip`` and the scores.

    Raises UserError when the file is damaged or too small.
    """
    clip = _Clip(analysis)
    for frames in _limited(media, analysis):
        clip.add(frames)
    return {
        "name": name,
        "kind": "clip" if media.num_frames > 1 else "picture",
        "frames": clip.frames,
        "height": clip.size[0],
        "width": clip.size[1],
        **clip.row(),
    }


def _limited(media: Media, analysis: Analysis) -> Iterator[UInt8[HostArray, "f h w 3"]]:
    """The chunks of a clip up to the limit."""
    count, length = 0, min(analysis.chunk, analysis.limit or analysis.chunk)
    for frames in chunks(media, length, analysis.scale):
        taken = len(frames) - (1 if count else 0)
        if analysis.limit and count + taken > analysis.limit:
            frames = frames[: len(frames) - (count + taken - analysis.limit)]
            if len(frames) == 1:
                return
        yield frames
        count += taken
        if analysis.limit and count >= analysis.limit:
            return


def _masks(
    error: HostArray,
    frames: UInt8[HostArray, "f h w 3"],
    small: HostArray,
    swap: LatentSwap | None,
    analysis: Analysis,
) -> dict[str, Bool[HostArray, "t r q"]]:
    """The keep masks of a chunk that can be made, by name."""
    target = frames.shape[1:3]
    settings = Mask() if analysis.settings is None else analysis.settings.mask
    masks = {ORACLE: needs_refinement(error, analysis.tau)}
    programs = analysis.programs
    if programs is not None and programs.model.predictor is not None:
        settings = dataclasses.replace(settings, source="predictor")
        make = keep_mask(settings, programs, small, None, target)
        masks[PREDICTOR] = make(None if programs.masks_from_pixels else swap.of_input)
    masks[TRAINING_FREE] = from_input(small / np.float32(255), target, settings.input_tau)
    return masks


def mean(rows: Sequence[Row], name: str) -> Row:
    """The row of the means over rows of every number, section by section."""
    return {"name": name} | _mean_of([{k: v for k, v in r.items() if k != "name"} for r in rows])


def _mean_of(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, dict):
        shared = [key for key in first if all(key in value for value in values)]
        return {key: _mean_of([value[key] for value in values]) for key in shared}
    if isinstance(first, list):
        return [_mean_of(part) for part in zip(*values, strict=True)]
    if isinstance(first, str):
        return first
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def without_speedup(rows: Sequence[Row]) -> list[str]:
    """A line for each mask that skips all of a clip, so that no operation is left to divide by."""
    lines = []
    for kind in MASKS:
        names = [row["name"] for row in rows if kind in row and row[kind]["speedup"] is None]
        if names:
            mask = kind.replace("_", "-")
            lines.append(
                f"all is skipped, so not in the mean of ops × ({mask}): {', '.join(names)}"
            )
    return lines


def means(rows: Sequence[Row]) -> list[Row]:
    """The mean row of the clips and that of the pictures, if there are any."""
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("clip", "picture")}
    return [mean(of, f"mean of {plural(len(of), kind)}") for kind, of in kinds.items() if of]
