"""The public function, and the order in which implementations are tried.

Between two convolutions on blocks lies one pass over memory: normalise, activate, put the borders
around, put the frames before in front, and remember the last ones.
"""

from jax import Array

from skipsr_jax.kernels.choice import Implementation, everywhere, first_supported, log_choice
from skipsr_jax.kernels.norm_silu_concat.blocks import triton as pallas_triton
from skipsr_jax.kernels.norm_silu_concat.blocks import xla
from skipsr_jax.kernels.norm_silu_concat.blocks.problem import Join
from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine
from skipsr_jax.kernels.target import current_target
from skipsr_jax.types import Float, Int

# Fastest first; the last one runs everywhere.
IMPLEMENTATIONS = {
    "pallas_triton": Implementation(pallas_triton.supported, pallas_triton.join_blocks),
    "xla": Implementation(everywhere, xla.join_blocks),
}


def join_blocks(
    x: Float[Array, "n f s s c"],
    affine: Affine | None,
    table: Float[Array, "m k v v c"],
    place: Int[Array, " n"],
    neighbours: Int[Array, "n 9"],
    border: xla.Border,
) -> tuple[Float[Array, "n g v v c"], Float[Array, "m k v v c"]]:
    """Blocks with a border of one pixel, behind their past, and what all blocks remember then.

    Args:
      x: f new frames of the blocks in n slots.
      affine: the map before the silu that x goes through; None: x goes as it is.
      table: of all m blocks, with borders (v = s + 2), the k frames before; f >= k.
      place: the block of each slot, none twice; from m on: padding.
      neighbours: slots of the 3 x 3 blocks around each, row by row; negative: none, and the border
        is zero there.
      border: ``xla.border_of(neighbours, s)``, which many calls share.

    Returns:
      g = k + f frames of each slot (of padding: any numbers), and the table with the last k.
    """
    n, frames, size, _, channels = x.shape
    join = Join(n, frames, size, channels, table.shape[1], x.dtype)
    name, refused = first_supported(IMPLEMENTATIONS, join, current_target())
    log_choice("blocks are joined by", name, refused)
    where = neighbours if name == "pallas_triton" else border
    return IMPLEMENTATIONS[name].run(x, affine, table, place, where)
