"""How one of several implementations of a kernel is chosen.

Every implementation has ``supported(problem, target) -> str | None``, which returns None when it
can run, else the reason in one sentence. Problem and target are static, so the choice is made while
tracing.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from skipsr_jax.kernels.target import Target

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One way to compute a kernel's result.

    Attributes:
      supported: ``supported(problem, target)`` is None where ``run`` works, else the reason.
      run: the computation, called with the kernel's operands.
    """

    supported: Callable[[Any, Target], str | None]
    run: Callable[..., Any]


def everywhere(problem: Any, target: Target) -> None:
    """``supported`` of an implementation that runs any problem on any target."""
    del problem, target


def first_supported(
    implementations: Mapping[str, Implementation], problem: Any, target: Target
) -> tuple[str | None, dict[str, str]]:
    """Name of the first implementation that can run the problem on the target, None without one.

    The second result says why each implementation before it cannot.
    """
    refused = {}
    for name, implementation in implementations.items():
        reason = implementation.supported(problem, target)
        if reason is None:
            return name, refused
        refused[name] = reason
    return None, refused


@functools.lru_cache(maxsize=256)
def _log_once(what: str, name: str, refused: tuple[tuple[str, str], ...]) -> None:
    why = "".join(f"; not {other}: {reason}" for other, reason in refused)
    _log.info("%s %s%s", what, name, why)


def log_choice(what: str, name: str, refused: Mapping[str, str]) -> None:
    """Logs a choice, once for each distinct one. ``what``: for example "attention runs on"."""
    _log_once(what, name, tuple(refused.items()))  # the cache is what makes it once
