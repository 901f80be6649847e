"""Pictures of what a stage makes, in one row a sample, at most ``SAMPLES`` of each shape.

From left to right: the upscaled input, the mask that ran (skipped patches blue), Eq. 1's mask on
the truth, the output, the truth; the middle frame of each clip.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from skipsr_jax.data.batch import Batch, with_masks
from skipsr_jax.geometry import PATCH_FRAMES
from skipsr_jax.media.mask_overlay import mask_overlay
from skipsr_jax.media.resize import upscale
from skipsr_jax.parallel.mesh import replicated
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.step import on_devices
from skipsr_jax.types import Float, HostArray

SAMPLES = 4
"""Rows of each shape, at most."""


class Panels:
    """Rows for the same batch each time, or for any.

    Args:
      stage: with a preview.
      seed: of the noise, the same each time.
      mesh: the devices.
      batch: held-out samples on this host; None: the batch of the call is shown.
    """

    def __init__(self, stage: Stage, seed: int, mesh: Mesh, batch: Batch | None = None):
        def first_samples(params: Any, frozen: Any, batch: Batch):
            found = stage.preview(params, frozen, batch, jax.random.key(seed))
            return jax.tree.map(lambda x: x[:SAMPLES], found)

        self._preview = jax.jit(first_samples, out_shardings=replicated(mesh))
        self._mesh, self._batch, self._scale = mesh, batch, stage.recipe.scale

    def __call__(self, params: Any, frozen: Any, batch: Batch) -> list[Float[HostArray, "h w 3"]]:
        """The rows, pixels in [0, 1]."""
        batch = with_masks(self._batch or batch, self._scale)
        found = jax.device_get(self._preview(params, frozen, on_devices(batch, self._mesh)))
        entries = (found.frames, found.keep, batch.hr, batch.lr, batch.mask)
        rows = []
        for frames, keep, truth, small, oracle in (
            sample for shape in zip(*entries, strict=True) for sample in zip(*shape, strict=False)
        ):
            middle = len(truth) // 2
            patch = (middle + PATCH_FRAMES - 1) // PATCH_FRAMES
            given = upscale(small[middle : middle + 1], truth.shape[1:3])[0]
            views = (
                given,
                mask_overlay(given, keep[patch]),
                mask_overlay(given, oracle[patch]),
                frames[middle],
                truth[middle] / np.float32(255),
            )
            rows.append(np.concatenate(views, axis=1))
        return rows
