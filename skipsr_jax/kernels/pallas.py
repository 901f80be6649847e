"""Pallas and its back ends, imported where a kernel is traced.

Their import takes as long as that of all of this package, and a run whose compiled programs are
kept traces no kernel.
"""

import importlib
from typing import Any


class _Deferred:
    """A module that is imported when an attribute of it is asked for."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """The module's attribute."""
        return getattr(importlib.import_module(self._name), attribute)


pl = _Deferred("jax.experimental.pallas")
mosaic_gpu = _Deferred("jax.experimental.pallas.mosaic_gpu")
tpu = _Deferred("jax.experimental.pallas.tpu")
triton = _Deferred("jax.experimental.pallas.triton")
