"""What a computation of quantised rows reads, and what its implementation depends on."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jax import Array

from skipsr_jax.kernels.quantized.formats import Format


class Operands(NamedTuple):
    """Arrays from which rows are computed.

    Attributes:
      rows: (b, n, width) each.
      scalars: one number for each row, (b, n, 1) each.
      vectors: one number for each column, (b, 1, width) or (1, 1, width) each.
      modulation: () or (scale, shift) of the norm, (b, 1, width) or (b, n, width) each.
      index: (b, n_out), which of ``rows`` to take; past the end: zeros. None: all, in order. Only
        with rows alone.
    """

    rows: tuple[Array, ...]
    scalars: tuple[Array, ...] = ()
    vectors: tuple[Array, ...] = ()
    modulation: tuple[Array, ...] = ()
    index: Array | None = None


class Compute(NamedTuple):
    """A computation of rows, in float32: of each number, and then maybe a norm of the row.

    Attributes:
      name: for profiles.
      number: (rows, scalars, vectors) -> numbers. It is called with arrays that broadcast to a
        block of some columns of some rows.
      eps: x / sqrt(mean(x^2) + eps) * scale + shift follows, with the operands' modulation; None:
        nothing does.
    """

    name: str
    number: Callable[[Sequence[Array], Sequence[Array], Sequence[Array]], Array]
    eps: float | None = None


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
