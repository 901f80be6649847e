"""The public function, and the order in which implementations are tried.

Between two convolutions on blocks lies one pass over memory: normalise, activate, put the borders
around, put the frames before in front, and remember the last ones.
"""

import functools
import logging
from collections.abc import Callable

from skipsr_jax.kernels.block_join import pallas_triton, xla
from skipsr_jax.kernels.block_join.problem import Affine, Join
from skipsr_jax.kernels.varlen_attention.problem import Target, current_target
from skipsr_jax.types import Array, Float, Int

_log = logging.getLogger(__name__)


def _everywhere(join: Join, target: Target) -> None:
    return None


# Fastest first; the last one runs everywhere.
IMPLEMENTATIONS: dict[str, tuple[Callable[[Join, Target], str | None], Callable[..., tuple]]] = {
    "pallas_triton": (pallas_triton.supported, pallas_triton.join_blocks),
    "xla": (_everywhere, xla.join_blocks),
}


def choose(join: Join, target: Target) -> tuple[str, dict[str, str]]:
    """The first implementation that can do it there, and why those before it cannot."""
    refused = {}
    for name, (supported, _) in IMPLEMENTATIONS.items():
        reason = supported(join, target)
        if reason is None:
            return name, refused
        refused[name] = reason
    raise ValueError(f"no implementation can do {join} on {target}: {refused}")


@functools.lru_cache(maxsize=256)
def _log_choice(name: str, refused: tuple[tuple[str, str], ...]) -> None:
    """Once for each distinct choice: the cache is what makes it once."""
    why = "".join(f"; not {other}: {reason}" for other, reason in refused)
    _log.info("blocks are joined by %s%s", name, why)


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
    name, refused = choose(join, current_target())
    _log_choice(name, tuple(refused.items()))
    where = neighbours if name == "pallas_triton" else border
    return IMPLEMENTATIONS[name][1](x, affine, table, place, where)
