"""Chooses the bucket in which the transformer runs each chunk.

The first bucket of a run holds every token of its largest chunk, so that its program can be
compiled before any mask is known, and serves all chunks of all inputs. Smaller buckets are compiled
or loaded when the padding that they would have spared adds up to what they cost (``size_choice``):
short runs compile one program, long runs come to pad by 1/32 at most.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from skipsr_jax.inference.size_choice import SizeChoice
from skipsr_jax.parallel.device_peaks import peak_flops
from skipsr_jax.tokens.buckets import Bucket, usable_tokens
from skipsr_jax.tokens.plan import bucket_with_window_capacity, smallest_bucket
from skipsr_jax.types import Bool, HostArray

COMPILE_SECONDS, LOAD_SECONDS = 15.0, 0.5
"""About what it takes to compile, and to load, a program of the transformer on a GPU."""
UTILISATION = 0.5
"""About the fraction of the device's peak that the transformer reaches."""
HOST_FLOPS = 1e11
"""Operations per second assumed of devices whose peak is not known, such as CPUs."""


def device_flops(device_kind: str) -> float:
    """About the operations per second that a network reaches on a device."""
    peak = peak_flops(device_kind)
    return HOST_FLOPS if peak is None else UTILISATION * peak


class BucketChoice:
    """The buckets of one model.

    Args:
      parameters: of the transformer, whose number says how long a token takes.
      devices: that share each clip.
      device_kind: of these devices.
      ask: as of ``SizeChoice``.
    """

    def __init__(self, parameters: int, devices: int, device_kind: str, ask: bool = True):
        self._devices = devices
        self._seconds_per_token = 2 * parameters / (device_flops(device_kind) * devices)
        self._choice = SizeChoice(COMPILE_SECONDS, LOAD_SECONDS, ask)
        self.ready: set[Bucket] = set()

    def reserve(self, grids: Iterable[tuple[int, int, int]]) -> None:
        """States the token grids (t, r, q) of chunks to come: the first bucket holds each."""
        whole = [self._whole(grid) for grid in grids]
        if whole:
            self.ready.add(Bucket(max(b.tokens for b in whole), max(b.windows for b in whole)))

    def choose(
        self,
        keep: Bool[HostArray, "t r q"],
        calls: int,
        fine: bool,
        is_kept: Callable[[Bucket], bool],
    ) -> Bucket:
        """The bucket for a chunk.

        Args:
          keep: its mask, with at least one kept patch.
          calls: how often the transformer runs on it.
          fine: whether to take the smallest bucket in any case.
          is_kept: whether the program of a bucket can be loaded rather than compiled.
        """
        wanted = bucket_with_window_capacity([keep], self._devices)
        if not fine:
            needed = smallest_bucket([keep], self._devices)
            kept = int(keep.sum())
            fits = [
                bucket
                for bucket in sorted(self.ready)
                if usable_tokens(bucket.tokens, self._devices) >= kept
                and bucket.windows >= needed.windows
            ]
            seconds = self._seconds_per_token * calls
            fits = fits or [self._whole(keep.shape)]
            wanted = self._choice.choose(wanted, fits, lambda b: seconds * b.tokens, is_kept)
        self.ready.add(wanted)
        return wanted

    def state(self) -> dict[str, Any]:
        """What the next choice depends on, for JSON."""
        ready = [dataclasses.astuple(bucket) for bucket in sorted(self.ready)]
        return {"ready": ready, "wasted": self._choice.wasted_seconds}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what ``state`` returned."""
        self.ready = {Bucket(*sizes) for sizes in state["ready"]}
        self._choice.wasted_seconds = state["wasted"]

    def _whole(self, grid: tuple[int, ...]) -> Bucket:
        """The bucket that holds every token of a grid."""
        return bucket_with_window_capacity([np.ones(grid, bool)], self._devices)
