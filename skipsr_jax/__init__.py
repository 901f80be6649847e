"""SkipSR in JAX: video super-resolution that computes only the patches that need it.

    from skipsr_jax import Upscaler

``import skipsr_jax`` imports no JAX; the first use of ``Upscaler`` does.
"""

import importlib

_HOMES = {"Upscaler": "skipsr_jax.inference.api"}  # imported when they are first used
__all__ = list(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
