"""The paper's experiment of section 3: what skipping alone costs, with the autoencoder alone.

The true frames and the bilinear upscale of their area-downsampling are encoded. Skipped patches
take the latent of the second, kept ones that of the first, and the mixture is decoded. What differs
from the truth is then due to the autoencoder and to skipping, not to a transformer.
"""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax import Array

from skipsr_jax.geometry import PATCH, token_grid
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.resize import area_down, resize, upscale
from skipsr_jax.types import Bool, Float, HostArray, UInt8


def _signed(frames: Float[HostArray, "f h w 3"]) -> Float[HostArray, "1 f h w 3"]:
    return (2 * frames - 1)[None]


class LatentSwap:
    """One chunk whose latents can be mixed. Encodings are made when they are first needed.

    Args:
      truth: the true frames: 4k + 1, in whole patches.
      small: the low-quality input, which a residual decoder and the mask predictor take.
      scale: how many times smaller that is.
      programs: of the model.
      settings: how the autoencoder runs.
    """

    def __init__(
        self,
        truth: UInt8[HostArray, "f h w 3"],
        small: UInt8[HostArray, "f h2 w2 3"],
        scale: int,
        programs: Programs,
        settings: Settings,
    ):
        self._truth, self._small, self._scale = truth, small, scale
        self._coder = programs.coder
        size = truth.shape[1:3]
        self._plan = self._coder.dense_plan(size, settings.slice_latents, settings.vae_memory_gib)
        self._slices = self._plan.slices(len(truth))

    @functools.cached_property
    def of_truth(self) -> Float[Array, "1 t h w c"]:
        """The mean latent of the true frames."""
        return self._encoded(self._truth / np.float32(255))

    @functools.cached_property
    def of_bilinear(self) -> Float[Array, "1 t h w c"]:
        """The mean latent of U(D(truth)), D area downsampling and U bilinear upsampling (Eq. 1)."""
        below = area_down(self._truth / np.float32(255), self._scale)
        return self._encoded(resize(below, self._truth.shape[1:3], "bilinear"))

    @functools.cached_property
    def of_input(self) -> Float[Array, "1 t h w c"]:
        """The mean latent of the upscaled input, which a mask predictor on latents takes."""
        return self._encoded(self._upscaled)

    @functools.cached_property
    def _upscaled(self) -> Float[HostArray, "f h w 3"]:
        return upscale(self._small, self._truth.shape[1:3])

    def _cut(self, frames: Float[HostArray, "f h w 3"]) -> Iterator[HostArray]:
        return (_signed(frames[part]) for part in self._slices)

    def _encoded(self, frames: Float[HostArray, "f h w 3"]) -> Float[Array, "1 t h2 w2 c"]:
        shape = self._coder.latent_shape(token_grid(*frames.shape[:3]))
        return self._coder.encode(self._cut(frames), jnp.zeros(shape), self._plan)

    def decoded(self, keep: Bool[HostArray, "t r q"]) -> UInt8[HostArray, "f h w 3"]:
        """The frames of the mixed latent, rounded to 8 bits as a file would hold them.

        Args:
          keep: the mask; all True: the plain reconstruction.
        """
        wide = np.repeat(np.repeat(keep, PATCH, 1), PATCH, 2)[None, ..., None]
        latent = self.of_truth
        if not keep.all():
            latent = jnp.where(wide, latent, self.of_bilinear)
        parts = self._coder.decode(latent, self._cut(self._upscaled), self._plan)
        frames = np.concatenate([np.asarray(part[0], np.float32) for part in parts])
        return np.rint(np.clip((frames + 1) / 2, 0, 1) * 255).astype(np.uint8)
