"""How the autoencoder runs each chunk: densely, or on the blocks of kept patches alone.

Blocks pay where few enough are kept. What layers remember of left-out blocks must be of the scene
that is shown: ``auto`` codes chunks with a cut densely, and all where memory is short.
"""

import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.scene_cuts import find_cuts
from skipsr_jax.tokens.blocks import Blocks, active_fraction, clip_blocks
from skipsr_jax.types import Bool, HostArray


def mask_needs_latent(programs: Programs, settings: Settings) -> bool:
    """Whether a chunk's mask is made from its latent; else it can be made before encoding."""
    return settings.mask.source == "predictor" and not programs.masks_from_pixels


def check_sparse(programs: Programs, settings: Settings) -> None:
    """Raises UserError for sparse coding that this model or these devices cannot do."""
    sparse = [name for name in ("encode", "decode") if getattr(settings, name) == "sparse"]
    if sparse and programs.devices > 1:
        raise UserError(
            f"config.{sparse[0]}=sparse runs on one device and the mesh has {programs.devices}: "
            f"set config.{sparse[0]}=dense"
        )
    if settings.encode == "sparse" and mask_needs_latent(programs, settings):
        raise UserError(
            f"{programs.model.source} predicts its mask from the latent, but config.encode=sparse "
            "needs the mask first: set config.encode=dense or config.mask.source=input"
        )


def may_be_sparse(name: str, programs: Programs, settings: Settings) -> bool:
    """Whether any chunk can leave blocks out on the way ``name`` (encode or decode)."""
    if getattr(settings, name) == "dense" or programs.devices > 1:
        return False
    if name == "encode":
        return not mask_needs_latent(programs, settings)
    return settings.pixels.keep_skipped


class Coding:
    """The choice for one chunk.

    Args:
      frames: of the input, (f, h, w, 3) uint8 or uint16; looked at for cuts.
      tiles: into which dense coding cuts the picture; more than one: memory is short.
    """

    def __init__(self, frames: HostArray, tiles: int, programs: Programs, settings: Settings):
        self._frames, self._programs, self._settings = frames, programs, settings
        self._fits = tiles == 1
        self._one_scene: bool | None = None

    def _in_one_scene(self) -> bool:
        if self._one_scene is None:
            eight = self._frames >> (8 * (self._frames.itemsize - 1))
            self._one_scene = not find_cuts(eight.astype(np.uint8))
        return self._one_scene

    def blocks(self, name: str, keep: Bool[HostArray, "t r q"]) -> list[Blocks] | None:
        """The blocks that the way ``name`` runs of each latent frame; None: all, densely."""
        if not may_be_sparse(name, self._programs, self._settings):
            return None
        plan = clip_blocks(keep)
        if plan is None or getattr(self._settings, name) == "sparse":
            return plan
        pays = active_fraction(plan) <= self._settings.sparse_up_to
        return plan if pays and self._fits and self._in_one_scene() else None
