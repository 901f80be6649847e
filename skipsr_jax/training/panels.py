"""Panels: rows of pictures that show a stage's composited output, one row a sample.

From left to right: the upscaled input, the mask that the stage used (skipped patches blue), Eq. 1's
mask on the truth, the output, the truth; of the middle frame of each clip, for at most ``SAMPLES``
samples of each shape.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from skipsr_jax.data.batch import Batch, with_masks
from skipsr_jax.geometry import patch_of_frame
from skipsr_jax.media.mask_overlay import mask_overlay
from skipsr_jax.media.resize import upscale
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.parallel.mesh import replicated
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.step import on_devices
from skipsr_jax.types import Bool, Float, HostArray, UInt8

SAMPLES = 4
"""Rows of each shape, at most."""


class Panels:
    """Makes the rows of one fixed batch, or of the batch of each call.

    Args:
      stage: with a preview.
      seed: of the noise, the same at each call.
      mesh: the devices.
      batch: held-out samples on this host; None: each call's own batch.
    """

    def __init__(self, stage: Stage, seed: int, mesh: Mesh, batch: Batch | None = None):
        def first_samples(params: Any, frozen: Any, batch: Batch):
            found = stage.preview(params, frozen, batch, jax.random.key(seed))
            return jax.tree.map(lambda x: x[:SAMPLES], found)

        self._preview = jax.jit(
            first_samples,
            out_shardings=replicated(mesh),
            compiler_options=convolution_options(fused=False),
        )
        self._mesh, self._batch, self._scale = mesh, batch, stage.recipe.scale

    def __call__(self, params: Any, frozen: Any, batch: Batch) -> list[Float[HostArray, "h w 3"]]:
        """The rows, pixels in [0, 1]."""
        batch = with_masks(self._batch or batch, self._scale)
        found = jax.device_get(self._preview(params, frozen, on_devices(batch, self._mesh)))
        shapes = zip(found.frames, found.keep, batch.hr, batch.lr, batch.mask, strict=True)
        # The preview has SAMPLES samples of each shape, the batch may have more.
        return [_row(*sample) for shape in shapes for sample in zip(*shape, strict=False)]


def _row(
    frames: Float[HostArray, "f h w 3"],
    keep: Bool[HostArray, "t r q"],
    hr: UInt8[HostArray, "f h w 3"],
    lr: UInt8[HostArray, "f h2 w2 3"],
    oracle: Bool[HostArray, "t r q"],
) -> Float[HostArray, "h w5 3"]:
    """The five pictures of a sample side by side."""
    middle = len(hr) // 2
    patch = patch_of_frame(middle)
    upscaled_input = upscale(lr[middle : middle + 1], hr.shape[1:3])[0]
    pictures = (
        upscaled_input,
        mask_overlay(upscaled_input, keep[patch]),
        mask_overlay(upscaled_input, oracle[patch]),
        frames[middle],
        hr[middle] / np.float32(255),
    )
    return np.concatenate(pictures, axis=1)
