"""How the encoder or the decoder runs on a chunk: densely, on kept patches alone, or not at all."""

import dataclasses
import math
from typing import Literal

from skipsr_jax.geometry import padded_count, spans
from skipsr_jax.inference.model import CoderKind
from skipsr_jax.models.vae.slices import frame_slices, latent_slices
from skipsr_jax.tokens.blocks import Blocks, blocks_run, clip_blocks, plan_blocks
from skipsr_jax.tokens.superblocks import SUPERBLOCK, Superblocks, plan_superblocks
from skipsr_jax.types import Bool, HostArray

Direction = Literal["encode", "decode"]


@dataclasses.dataclass(frozen=True, eq=False)
class CodingPlan:
    """How the encoder or the decoder runs on a chunk.

    Attributes:
      mode: "dense" runs all blocks; "sparse" runs ``blocks`` or ``superblocks``; "skip" runs
        nothing, because nothing of its result would be used.
      slice_latents: latent frames of a slice; 1 where the full coder is sparse. More latents at a
        time take more memory and give the same result.
      tiles: spatial tiles in which the finest levels run, to save memory; 1 unless the mode is
        "dense".
      blocks: the active blocks of each latent frame, where the full coder is sparse.
      superblocks: the active superblocks of each slice, where the light coder is sparse; None: the
        slice is decoded densely.
    """

    mode: Literal["dense", "sparse", "skip"] = "dense"
    slice_latents: int = 1
    tiles: int = 1
    blocks: tuple[Blocks, ...] = ()
    superblocks: tuple[Superblocks | None, ...] = ()

    @property
    def slots(self) -> int:
        """Blocks (of a frame) or superblocks (of a slice) that run, padding included, of a sparse
        plan. Its first latent frame runs whole."""
        if self.blocks:
            return len(self.blocks[-1].block_index)
        return len(self._sparse_slices[0].index)

    @property
    def all_blocks(self) -> int:
        """Blocks of a frame or superblocks of a slice, of a sparse plan."""
        if self.blocks:
            return len(self.blocks[0].block_index)
        return self._sparse_slices[0].slot_of.size

    @property
    def sparse_slices(self) -> int:
        """How many slices of a sparse plan are not run whole."""
        return len(self.blocks) - 1 if self.blocks else len(self._sparse_slices)

    @property
    def _sparse_slices(self) -> list[Superblocks]:
        return [part for part in self.superblocks if part is not None]

    def slices(self, frames: int) -> list[slice]:
        """The slices in which a chunk of ``frames`` frames, padded to 4k + 1, runs."""
        return spans(frame_slices(padded_count(frames), self.slice_latents))

    def blocks_run(self, grid: tuple[int, int, int]) -> int:
        """How many of the blocks of a chunk of ``grid`` (t, r, q) run, padding included."""
        if self.mode == "dense":
            return math.prod(grid)
        if self.mode == "skip":
            return 0
        if self.blocks:
            return blocks_run(list(self.blocks))
        spared = SUPERBLOCK**2 * (self.all_blocks - self.slots) * self.sparse_slices
        return max(0, math.prod(grid) - spared)


DENSE = CodingPlan()
SKIP = CodingPlan("skip")


def sparse_plan(
    kind: CoderKind, keep: Bool[HostArray, "t r q"], slice_latents: int, slots: int | None = None
) -> CodingPlan | None:
    """The sparse plan of a chunk for a kind of coder; None where nothing can be left out.

    Args:
      kind: "full" or "light".
      keep: the mask.
      slice_latents: latent frames of a slice of the light coder.
      slots: see ``CodingPlan``; by default as many as are needed.
    """
    if kind == "full":
        blocks = clip_blocks(keep) if slots is None else plan_blocks(keep, slots)
        return None if blocks is None else CodingPlan("sparse", blocks=tuple(blocks))
    lengths = latent_slices(len(keep), slice_latents)
    superblocks = plan_superblocks(keep, lengths, slots)
    plan = CodingPlan("sparse", slice_latents, superblocks=superblocks)
    if not plan.sparse_slices or (slots is None and plan.slots == plan.all_blocks):
        return None
    return plan
