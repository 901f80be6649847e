"""An Orbax type handler that writes memory-mapped arrays larger than memory, a chunk at a time.

Orbax's own handler copies all numpy arrays first and then writes them all at once, which takes as
much memory as the model. Invariant: the files are those that Orbax writes, and one chunk is in
memory.
"""

import asyncio
import itertools
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

# Arrays are stored in chunks of about this size, which bounds memory and suits sharded reading.
CHUNK_BYTES = 1 << 26
_SMALL_BYTES = 1 << 20


class StreamingHandler(ocp.type_handlers.NumpyHandler):
    """Orbax's numpy handler, writing chunk after chunk and without a copy of the array.

    It overrides an internal method of Orbax. If Orbax renamed that method, its own would run and
    write the same files with more memory; tests/checkpoints/test_store.py would fail.
    """

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)
        self._turn = asyncio.Lock()

    async def _open_and_write(
        self, value: np.ndarray, tspec: dict[str, Any], ts_context: ts.Context
    ) -> None:
        if value.nbytes < _SMALL_BYTES:  # written side by side: they need little memory
            return await super()._open_and_write(value, tspec, ts_context)
        async with self._turn:
            spec = ts.Spec(tspec)
            target = await ts.open(spec, create=True, open=True, context=ts_context)
            chunk = target.chunk_layout.write_chunk.shape or value.shape
            starts = (
                range(0, length, max(step, 1))
                for length, step in zip(value.shape, chunk, strict=True)
            )
            for corner in itertools.product(*starts):
                sides = zip(corner, chunk, value.shape, strict=True)
                box = tuple(slice(at, min(at + step, n)) for at, step, n in sides)
                await target[box].write(value[box])
        return None


def state_handler(concurrent_gb: int) -> ocp.PyTreeCheckpointHandler:
    """Orbax's handler of nested dicts with numpy arrays written by `StreamingHandler`.

    ``concurrent_gb``: how many GB of arrays Orbax may write at a time.
    """
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, StreamingHandler()), (jax.Array, ocp.type_handlers.ArrayHandler())
    )
    return ocp.PyTreeCheckpointHandler(
        type_handler_registry=registry, save_concurrent_gb=concurrent_gb
    )
