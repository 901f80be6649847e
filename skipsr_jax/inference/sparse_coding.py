"""Chooses how the autoencoder runs on each chunk: densely, or on the blocks of kept patches alone.

Sparse coding pays where few enough blocks are kept. What the full coder's caches hold for blocks
that do not run must be of the scene at hand, so ``auto`` codes chunks with a scene cut densely, and
all chunks where memory is short (the sparse programs have no spatial tiles). Of the light coder,
the decoder alone is sparse, and exact. Its encoder would run two patches more around kept ones,
which its coarsest level sees: too much, with the halos, to spare anything at 75 % skipped patches.
"""

import functools

import jax
import numpy as np

from skipsr_jax.errors import UserError
from skipsr_jax.inference.coding_plan import SKIP, CodingPlan, Direction, sparse_plan
from skipsr_jax.inference.model import CoderKind
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Settings
from skipsr_jax.media.scene_cuts import find_cuts
from skipsr_jax.types import Bool, HostArray

LIGHT_SPARSE_UP_TO = {"cpu": 0.5}
"""The fraction of superblocks up to which the light decoder is faster sparsely, by platform. Of the
processor time of dense decoding it took 0.60 with 10 % of them, 0.72 with 30 %, 0.90 with 50 %,
1.04 with 71 % and 1.27 with all (tiny, 704 x 576 pixels, two cores). Where it has not been
measured, ``auto`` is dense."""


def mask_needs_latent(programs: Programs, settings: Settings) -> bool:
    """Whether a chunk's mask is predicted from its latent; else it can be made before encoding."""
    return settings.mask.source == "predictor" and not programs.masks_from_pixels


def check_sparse(programs: Programs, settings: Settings) -> None:
    """Raises UserError for sparse coding that this model or these devices cannot do."""
    sparse = [name for name in ("encode", "decode") if getattr(settings, name) == "sparse"]
    devices = programs.model.devices
    if settings.encode == "sparse" and programs.model.coder_kind == "light":
        raise UserError(
            "config.encode=sparse needs the full coder, the light one encodes faster densely: set "
            "config.encode=dense or config.coder=full"
        )
    if sparse and devices > 1:
        raise UserError(
            f"config.{sparse[0]}=sparse runs on one device and the mesh has {devices}: set "
            f"config.{sparse[0]}=dense"
        )
    if settings.encode == "sparse" and mask_needs_latent(programs, settings):
        raise UserError(
            f"{programs.model.source} predicts its mask from the latent, but config.encode=sparse "
            "needs the mask first: set config.encode=dense or config.mask.source=input"
        )


def may_be_sparse(direction: Direction, programs: Programs, settings: Settings) -> bool:
    """Whether any chunk may be encoded or decoded sparsely."""
    if getattr(settings, direction) == "dense" or programs.model.devices > 1:
        return False
    if direction == "encode":
        full = programs.model.coder_kind == "full"
        return full and not mask_needs_latent(programs, settings)
    return settings.pixels.keep_skipped


def sparse_up_to(kind: CoderKind, settings: Settings) -> float:
    """The fraction of blocks, or superblocks, up to which ``auto`` codes sparsely, 0 to 1."""
    if kind == "full":
        return settings.sparse_up_to
    return min(settings.sparse_up_to, LIGHT_SPARSE_UP_TO.get(jax.default_backend(), 0.0))


class CodingChoice:
    """Chooses the coding plans of one chunk.

    Args:
      frames: of the input, (f, h, w, 3) uint8 or uint16, in which scene cuts are looked for.
      padded_size: (height, width) of the upscaled input.
      programs, settings: of the run.
    """

    def __init__(
        self,
        frames: HostArray,
        padded_size: tuple[int, int],
        programs: Programs,
        settings: Settings,
    ):
        self._dense = programs.coder.dense_plan(
            padded_size, settings.slice_latents, settings.vae_memory_gib
        )
        self._frames, self._programs, self._settings = frames, programs, settings

    @property
    def needs_mask_to_encode(self) -> bool:
        """Whether ``encoding`` needs the mask."""
        return may_be_sparse("encode", self._programs, self._settings)

    def encoding(self, keep: Bool[HostArray, "t r q"] | None) -> CodingPlan:
        """How the chunk is encoded. ``keep`` may be None where encoding does not need the mask."""
        return self._plan("encode", keep)

    def decoding(self, keep: Bool[HostArray, "t r q"]) -> CodingPlan:
        """How the chunk is decoded: not at all where all pixels are those of the input."""
        if not keep.any() and self._settings.pixels.keep_skipped:
            return SKIP
        return self._plan("decode", keep)

    def _plan(self, direction: Direction, keep: Bool[HostArray, "t r q"] | None) -> CodingPlan:
        settings = self._settings
        if keep is None or not may_be_sparse(direction, self._programs, settings):
            return self._dense
        kind, slice_latents = self._programs.model.coder_kind, self._dense.slice_latents
        plan = sparse_plan(kind, keep, slice_latents)
        if plan is None:
            return self._dense
        if getattr(settings, direction) == "auto":
            pays = plan.slots <= sparse_up_to(kind, settings) * plan.all_blocks
            one_scene = kind == "light" or self._in_one_scene  # the light decoder is exact
            if not (pays and self._dense.tiles == 1 and one_scene):
                return self._dense
            if settings.buckets == "auto":
                slots = self._slots(direction, plan)
                if slots == plan.all_blocks:
                    return self._dense
                return sparse_plan(kind, keep, slice_latents, slots)
        return plan

    def _slots(self, direction: Direction, plan: CodingPlan) -> int:
        """The slots in which the chunk runs, of programs that are there or worth making."""
        coder, total = self._programs.coder, plan.all_blocks
        return self._programs.slots[direction].choose(
            plan.slots, total, plan.sparse_slices,
            lambda slots: coder.sparse_step(direction, slots, total).is_known(),
        )  # fmt: skip

    @functools.cached_property
    def _in_one_scene(self) -> bool:
        eight_bits = self._frames >> (8 * (self._frames.itemsize - 1))
        return not find_cuts(eight_bits.astype(np.uint8))
