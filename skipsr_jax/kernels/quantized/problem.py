"""What a computation of quantised rows reads, and what its implementation depends on."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from skipsr_jax.kernels.quantized.formats import Format

Compute = Callable[..., Array]
"""(rows, scalars, vectors, width) -> rows: each an array that broadcasts to a block of whole rows,
in float32. Within a block that is padded to more columns than ``width`` the operands are 0 there.
"""


class Operands(NamedTuple):
    """Arrays from which rows are computed.

    Attributes:
      rows: (b, n, width) each.
      scalars: one number for each row, (b, n, 1) each.
      vectors: one number for each column, (b, 1, width) or (1, 1, width) each.
      index: (b, n_out), which of ``rows`` to take; past the end: zeros. None: all, in order. Only
        without scalars.
    """

    rows: tuple[Array, ...]
    scalars: tuple[Array, ...]
    vectors: tuple[Array, ...]
    index: Array | None


@dataclasses.dataclass(frozen=True)
class RowsProblem:
    """Static facts.

    Attributes:
      width: numbers of a row.
      format: of the result.
      sharded: whether a program for several devices is compiled, whose rows the compiler shards.
    """

    width: int
    format: Format
    sharded: bool = False
