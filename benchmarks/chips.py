"""Memory and links of TPU chips, and the devices of slices to compile for without having them.

The numbers are those of docs.cloud.google.com/tpu/docs/{v5e,v5p,v6e}, "system architecture". Google
gives links as gigabits in one direction (v5p: 4,800) or gigabytes in both directions (v5e: 400,
v6e: 800), over all ports; here they are bytes per second in one direction. The peaks of arithmetic
are in skipsr_jax.parallel.device_peaks.
"""

import dataclasses
import os

import jax
from jax.experimental import topologies

from skipsr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip, each of which jax counts as one device.

    Attributes:
      name: the first part of a topology's name ("v5e:16x16").
      device_kind: ``jax.Device.device_kind``.
      hbm_bytes: bytes of memory.
      hbm_bandwidth: bytes per second to and from memory.
      link_bandwidth: bytes per second that leave the chip by all links.
      link_axes: axes of the torus; each has 1 / link_axes of the bandwidth.
      slices: shapes of the slices that Google offers, from the smallest on.
    """

    name: str
    device_kind: str
    hbm_bytes: float
    hbm_bandwidth: float
    link_bandwidth: float
    link_axes: int
    slices: tuple[str, ...]

    @property
    def topologies(self) -> tuple[str, ...]:
        """The names of the slices, from the smallest on."""
        return tuple(f"{self.name}:{shape}" for shape in self.slices)


_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")

CHIPS = (
    Chip("v5e", "TPU v5 lite", 16e9, 819e9, 200e9, 2, _FLAT),
    Chip("v5p", "TPU v5", 95e9, 2765e9, 600e9, 3, _CUBES),
    Chip("v6e", "TPU v6 lite", 32e9, 1638e9, 400e9, 2, _FLAT),
)


def chip_named(topology: str) -> Chip:
    """The chip of "v5e:16x16" or "v5e". Raises UserError for one that is not in the table."""
    name = topology.split(":")[0]
    for chip in CHIPS:
        if chip.name == name:
            return chip
    names = ", ".join(chip.name for chip in CHIPS)
    raise UserError(f"unknown chip {name!r}: choose one of {names}, as in v5e:16x16")


def use_compiler_only() -> None:
    """Makes this process compute on the CPU and compile with libtpu.

    Call it before libtpu is loaded, which reads these variables then: without them it asks the
    cloud what machine it is on.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # for several processes at a time
    jax.config.update("jax_platforms", "cpu")


def devices_of(topology: str, slices: int = 1) -> list[jax.Device]:
    """The devices of one or more slices, to compile for; they need not exist.

    Raises UserError where libtpu is not installed, and for a name that it does not know.
    """
    try:
        several = {"num_slices": slices} if slices > 1 else {}
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **several)
    except (RuntimeError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            f"no topology {topology!r}: {first} (it needs libtpu, see requirements-test.txt, and a "
            "name such as v5e:16x16, v5p:4x4x8, v6e:2x4)"
        ) from error
    return list(found.devices)
