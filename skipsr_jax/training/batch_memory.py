"""Refuses a batch that cannot fit the devices, before anything is compiled for it."""

import math
import os

import jax
from jax.sharding import Mesh

from skipsr_jax.errors import UserError
from skipsr_jax.training.settings import Data, Settings


def check_batch_fits(settings: Settings, mesh: Mesh) -> None:
    """Raises UserError when the frames of a batch alone exceed the memory of the devices.

    They lie there as 8-bit numbers, split over the packs' axes of the mesh. What a step computes
    takes many times as much, so a batch that passes may still not fit.
    """
    memory = _memory()
    shards = 1 if mesh.devices.flat[0].platform == "cpu" else mesh.size  # CPU devices share memory
    for key, samples, needed in _frames_of(settings.data):
        if memory is not None and needed / shards > memory:
            raise UserError(
                f"config.data.{key} is {samples}: the frames of a batch alone take "
                f"{needed / shards / 2**30:.4g} GiB of the {memory / 2**30:.4g} GiB of a device: "
                "lower it, or the frames or the crop"
            )


def _frames_of(data: Data) -> list[tuple[str, int, int]]:
    """(key, its value, bytes of the true frames) of each kind of batch."""
    if data.pack:
        pixels = sum(math.prod(shape) for shape in data.pack)
        return [("batch", data.batch, 3 * data.batch * pixels)]
    clips = 3 * data.batch * data.frames * math.prod(data.crop)
    found = [("batch", data.batch, clips)]
    if data.image_share:
        pictures = 3 * data.image_batch * math.prod(data.image_crop)
        found.append(("image_batch", data.image_batch, pictures))
    return found


def _memory() -> int | None:
    """The bytes of a device, on a CPU of the machine; None where it does not say."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
