"""Evaluation on held-out data during a run, each time on the same samples with the same noise.

``HeldOutLoss``: the stage's own metrics. ``HeldOutQuality``: PSNR and SSIM of the stage's
composited output (``Stage.preview``), with and without skipping, beside bicubic upscaling, by
``skipsr_jax.evaluation.quality`` as in benchmarks/quality.py.
"""

import logging
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from skipsr_jax.data.batch import plain_batch
from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.reading import read
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation import quality
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.parallel.mesh import pack_shards, replicated
from skipsr_jax.training.metrics import mean_by_kind
from skipsr_jax.training.settings import Settings
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.step import make_evaluation, on_devices
from skipsr_jax.types import HostArray, UInt8

Hosts = tuple[int, int]
"""This host's number, and how many there are."""


class HeldOutLoss:
    """Mean metrics of the loss on the first batches of ``data.eval_root``."""

    def __init__(self, stage: Stage, settings: Settings, mesh: Mesh, hosts: Hosts):
        dataset = batches(
            find_sources(settings.data.eval_root, settings.data.strict), stage.recipe, hosts
        )
        self._batches = [dataset[i] for i in range(settings.loop.eval_batches)]
        self._evaluate = jax.jit(
            make_evaluation(stage, settings.seed), compiler_options=convolution_options(fused=False)
        )
        self._mesh = mesh

    def __call__(self, params: Any, frozen: Any) -> dict[str, float]:
        entries = [
            (b.kind, self._evaluate(params, frozen, on_devices(b, self._mesh)))
            for b in self._batches
        ]
        return {f"eval/{name}": value for name, value in mean_by_kind(entries).items()}


class HeldOutQuality:
    """PSNR and SSIM on the clips and pictures of ``data.eval_root``, reduced 4x and upscaled again.

    Each clip is cut to its first ``data.eval_frames`` frames (a picture has one) and to the middle
    ``data.eval_crop`` pixels. So clips have one shape and pictures another, and two compiled
    programs serve all of them, with skipping and without. Files that are too small or too short are
    left out and logged.
    """

    def __init__(self, stage: Stage, settings: Settings, mesh: Mesh, hosts: Hosts):
        self._recipe, self._mesh, self._hosts = stage.recipe, mesh, hosts
        data, limit = settings.data, settings.loop.quality_clips
        self._clips: dict[int, list[tuple[str, UInt8[HostArray, "f h w 3"]]]] = {}
        for source in find_sources(data.eval_root, data.strict):
            frames = 1 if source.kind == "image" else data.eval_frames
            clips = self._clips.setdefault(frames, [])
            if len(clips) == limit:
                continue
            height, width = data.eval_crop
            top, left = (source.height - height) // 2, (source.width - width) // 2
            if source.frames < frames or min(top, left) < 0:
                logging.info(
                    "quality: %s is left out, it has less than %d frames of %d x %d",
                    source.path, frames, height, width,
                )  # fmt: skip
                continue
            clip = read(source, 0, frames, data.cache or None)
            clip = np.array(clip[:, top : top + height, left : left + width])
            clips.append((pathlib.Path(source.path).name, clip))
        if not any(self._clips.values()):
            raise UserError(
                f"nothing in data.eval_root {data.eval_root} holds {data.eval_frames} frames of "
                f"{data.eval_crop[0]} x {data.eval_crop[1]}: lower data.eval_frames or eval_crop"
            )

        def preview(params: Any, frozen: Any, batch: Any):
            return stage.preview(params, frozen, batch, jax.random.key(settings.seed))

        self._preview = jax.jit(
            preview,
            out_shardings=replicated(mesh),
            compiler_options=convolution_options(fused=False),
        )
        self._group = pack_shards(mesh)

    def __call__(self, params: Any, frozen: Any) -> dict[str, float]:
        """The means over clips and over pictures.

        Columns ``dense`` are there for stages that take their mask from the batch; a stage that
        predicts it has no run without skipping.
        """
        rows = []
        for found in self._clips.values():
            for first in range(0, len(found), self._group):
                rows += self._rows(params, frozen, found[first : first + self._group])
        out = {}
        for row in quality.means(rows):
            kind = row["kind"] + "s"
            for column in quality.COLUMNS:
                for name, value in row.get(column, {}).items():
                    out[f"quality/{kind}/{name}_{column}"] = value
            # Not psnr_skipped, which is the name of the PSNR of results with skipping.
            names = {name: name for name in quality.MASK_COLUMNS} | {
                "psnr_skipped": "psnr_in_skipped"
            }
            out |= {f"quality/{kind}/{new}": row[name] for name, new in names.items()}
        return out

    def _rows(self, params, frozen, clips) -> list[quality.Row]:
        """The rows of a group of clips, one for each pack shard; a last group that is smaller is
        filled up with its last clip."""
        truths = [clip for _, clip in clips]
        filled = truths + truths[-1:] * (self._group - len(truths))
        index, hosts = self._hosts
        count = len(filled) // hosts
        own = filled[index * count : (index + 1) * count]

        def run(dense: bool):
            batch = plain_batch(own, self._recipe, dense)
            return jax.device_get(self._preview(params, frozen, on_devices(batch, self._mesh)))

        skipped, dense = run(False), run(True)
        (frames,), (keep,), (dense_frames,) = skipped.frames, skipped.keep, dense.frames
        mask_from_batch = bool(dense.keep[0].all())
        return [
            quality.row(
                name, truth, self._recipe.scale, frames[i], keep[i],
                dense_frames[i] if mask_from_batch else None,
            )
            for i, (name, truth) in enumerate(clips)
        ]  # fmt: skip
