"""Memory and links of TPU chips; their peaks of arithmetic are in skipsr_jax.models.flops.

As docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e} state them under "system architecture". Google gives
links as gigabits one way (v5p: 4,800) or gigabytes both ways (v5e: 400, v6e: 800), over all ports;
here they are bytes per second one way.
"""

import dataclasses

from skipsr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, which jax counts as one device.

    Attributes:
      name: the first part of a topology's name ("v5e:16x16").
      device_kind: ``jax.Device.device_kind``.
      hbm_bytes: memory. hbm_bandwidth: bytes per second.
      link_bandwidth: bytes per second that leave the chip by all links, one way.
      link_axes: axes of the torus; each has 1 / link_axes of the bandwidth.
      slices: topologies that can be had, by size.
    """

    name: str
    device_kind: str
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    link_axes: int
    slices: tuple[str, ...]


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")

CHIPS = (
    Chip("v5e", "TPU v5 lite", 16e9, 819e9, 200e9, 2, _FLAT),
    Chip("v5p", "TPU v5", 95e9, 2765e9, 600e9, 3, _CUBES),
    Chip("v6e", "TPU v6 lite", 32e9, 1638e9, 400e9, 2, _FLAT),
)


def chip_named(topology: str) -> Chip:
    """The chip of "v5e:16x16" or "v5e". Raises UserError for one that the table does not have."""
    name = topology.split(":")[0]
    for chip in CHIPS:
        if chip.name == name:
            return chip
    names = ", ".join(chip.name for chip in CHIPS)
    raise UserError(f"unknown chip {name!r}: choose one of {names}, as in v5e:16x16")
