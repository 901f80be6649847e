"""Keeps JAX from starting libtpu on a machine without a TPU, where libtpu prints its errors.

The extra ``test`` installs libtpu, to compile for TPUs without one. JAX starts every platform that
is installed, and libtpu then says on stderr that it found neither a TPU nor hosts. Invariant: JAX
has the devices that it would have had.
"""

import importlib.util
import os
import pathlib
from collections.abc import MutableMapping
from importlib.metadata import entry_points

_GOOGLE = "0x1ae0"
"""Google's number as a vendor of PCI devices, TPUs among them."""
_ACCELERATORS = ("dev/accel*", "dev/vfio/[0-9]*", "dev/nvidia*", "dev/dxg")
"""Files of TPUs; and of NVIDIA GPUs, for which JAX says how to install their platform."""
_CHOICES = ("JAX_PLATFORM", "JAX_FORCE_TPU_INIT", "TPU_", "LIBTPU_", "PJRT_")
"""How the names of environment variables begin that say what JAX or libtpu shall start."""


def has_accelerator(root: pathlib.Path) -> bool:
    """Whether there may be a TPU, or a GPU. ``root``: of the file system."""
    if any(True for pattern in _ACCELERATORS for _ in root.glob(pattern)):
        return True
    vendors = root.glob("sys/bus/pci/devices/*/vendor")
    return any(vendor.read_text().strip() == _GOOGLE for vendor in vendors)


def has_plugins() -> bool:
    """Whether JAX will find other platforms than its own two, the CPU and the TPU."""
    return bool(importlib.util.find_spec("jax_plugins") or entry_points(group="jax_plugins"))


def leave_out_absent_tpu(
    environment: MutableMapping[str, str] = os.environ, root: pathlib.Path = pathlib.Path("/")
) -> None:
    """Sets JAX_PLATFORMS to cpu where JAX could start nothing else but a TPU that is not there.

    Does nothing where the environment says what to start, or where libtpu is not installed. To be
    called before jax is imported.
    """
    if importlib.util.find_spec("libtpu") is None or any(map(_is_choice, environment)):
        return
    if not (has_plugins() or has_accelerator(root)):
        environment["JAX_PLATFORMS"] = "cpu"


def _is_choice(name: str) -> bool:
    return name.startswith(_CHOICES)
