"""The public function for active blocks, and the order in which implementations are tried."""

from jax import Array

from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.norm_silu_concat.blocks import triton as pallas_triton
from skipsr_jax.kernels.norm_silu_concat.blocks import xla
from skipsr_jax.kernels.norm_silu_concat.blocks.xla import BlocksProblem, HaloIndex
from skipsr_jax.kernels.norm_silu_concat.scale_shift import ScaleShift
from skipsr_jax.kernels.target import current_target
from skipsr_jax.types import Float, Int

# Fastest first; the last one runs everywhere.
IMPLEMENTATIONS = {
    "pallas_triton": Implementation(pallas_triton.supported, pallas_triton.norm_silu_concat),
    "xla": Implementation(everywhere, xla.norm_silu_concat),
}


def norm_silu_concat_blocks(
    x: Float[Array, "slots f size size c"],
    scale_shift: ScaleShift | None,
    cache: Float[Array, "blocks cached side side c"],
    block_index: Int[Array, " slots"],
    neighbours: Int[Array, "slots 9"],
    halo: HaloIndex,
) -> tuple[Float[Array, "slots f_out side side c"], Float[Array, "blocks cached side side c"]]:
    """Normalised and activated blocks with a halo of one pixel, behind their cache; the next cache.

    Args:
      x: f new frames of the blocks in the slots.
      scale_shift: applied to x before the SiLU; None: x is concatenated as it is.
      cache: the frames before, of all blocks, with halos (side = size + 2); f >= cached. Its dtype
        is that of the result: x's, or e4m3.
      block_index: the block of each slot, none twice; numbers of blocks and more mark padding.
      neighbours: slots of the 3 x 3 blocks around each, row by row; negative: there is none, and
        the halo is zero there.
      halo: ``xla.halo_index(neighbours, size)``, which many calls share. An implementation uses
        either this or ``neighbours``.

    Returns:
      cached + f frames of each slot (of padding: any numbers), and the cache with the last frames
      of the slots' blocks.
    """
    slots, frames, size, _, channels = x.shape
    problem = BlocksProblem(slots, frames, size, channels, cache.shape[1], x.dtype, cache.dtype)
    name, refused = first_supported(IMPLEMENTATIONS, problem, current_target())
    log_choice("norm, SiLU and concatenation of blocks run on", name, refused)
    return IMPLEMENTATIONS[name].run(x, scale_shift, cache, block_index, neighbours, halo)
