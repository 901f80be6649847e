"""Which compiled size an input is padded to, where another program would have to be compiled.

A program for exactly the size that is wanted wastes nothing on padding but has to be compiled, or
loaded from the folder of kept programs. One that is there already, for a larger size, costs its
padding at every use. The rule is that of ski rental: padding is accepted until the time that it
wasted so far would have paid for the program, and then the program is made. So a run never spends
more than about twice what it would have spent had it known all sizes beforehand: short runs compile
few programs, and long runs reach the fine sizes, whose padding is at most 1/32.

The decision depends on the order of the sizes and on which programs are kept, never on a clock.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

Size = TypeVar("Size")


class SizeChoice:
    """The account of one kind of program.

    Args:
      compile_seconds: what it takes to compile a program that is not kept anywhere.
      load_seconds: what it takes to load one that is.
      ask: whether to ask which programs are kept. Else every program has the price of compiling,
        and the decisions are the same whatever ran before.
    """

    def __init__(self, compile_seconds: float, load_seconds: float, ask: bool = True):
        self._compile_seconds, self._load_seconds = compile_seconds, load_seconds
        self._ask = ask
        self.wasted_seconds = 0.0

    def choose(
        self,
        wanted: Size,
        ready: Iterable[Size],
        seconds: Callable[[Size], float],
        is_kept: Callable[[Size], bool],
    ) -> Size:
        """``wanted``, or one of ``ready``.

        Args:
          wanted: the smallest size that holds the input.
          ready: sizes whose programs are in memory and that hold the input.
          seconds: about how long a program of a size runs.
          is_kept: whether the program of a size can be loaded rather than compiled.
        """
        best = min(ready, key=seconds, default=None)
        if best is None or best == wanted:
            return wanted
        self.wasted_seconds += max(0.0, seconds(best) - seconds(wanted))
        price = self._load_seconds if self._ask and is_kept(wanted) else self._compile_seconds
        if self.wasted_seconds < price:
            return best
        self.wasted_seconds = 0.0
        return wanted
