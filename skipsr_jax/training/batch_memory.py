"""What cannot fit the devices: frames are refused before compiling, a step's need is compared."""

import math

import jax
from jax.sharding import Mesh

from skipsr_jax.errors import UserError
from skipsr_jax.host_memory import device_limit, host_free
from skipsr_jax.training.settings import Data, Settings


def check_batch_fits(settings: Settings, mesh: Mesh) -> None:
    """Raises UserError when the frames of a batch alone exceed the memory of the devices.

    They lie there as 8-bit numbers, split over the packs' axes of the mesh. What a step computes
    takes many times as much (``missing_memory``).
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


def missing_memory(step: jax.stages.Compiled) -> str | None:
    """What a compiled step needs and what there is, in words; None when it fits.

    The compiler says what a device needs. The state and the batch are there already: on a CPU,
    whose devices share the host's memory, only the rest is compared with what is free. A step fits
    where compiler or system do not say.
    """
    needs, device = step.memory_analysis(), jax.local_devices()[0]
    if needs is None:
        return None
    more = needs.temp_size_in_bytes + needs.output_size_in_bytes - needs.alias_size_in_bytes
    if device.platform == "cpu":
        more, free = more * len(jax.local_devices()), host_free()
    else:
        more, free = more + needs.argument_size_in_bytes, _memory()
    if free is None or more <= free:
        return None
    where = "host" if device.platform == "cpu" else "device"
    return f"needs {more / 2**30:.3g} GiB and the {where} has {free / 2**30:.3g}"


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
    """The bytes of a device, on a CPU those that this process may hold; None where nobody knows."""
    return device_limit(jax.local_devices()[0])
