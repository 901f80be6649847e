"""The machine that a program is compiled for, and the facts that kernels need of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

HALF_PRECISION = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
"""Dtypes of the kernels for NVIDIA GPUs, which use the tensor cores."""


@dataclasses.dataclass(frozen=True)
class Target:
    """The machine a program is compiled for. ``compute_capability`` is None off NVIDIA GPUs."""

    platform: str
    compute_capability: tuple[int, int] | None = None


def gpu_refusal(
    dtype: np.dtype,
    target: Target,
    needs: str,
    least: tuple[int, int],
    below: tuple[int, int] | None = None,
) -> str | None:
    """Why a half-precision kernel for NVIDIA GPUs cannot run on the target, in this dtype; or None.

    It runs at compute capabilities from ``least`` to below ``below`` (None: without a limit);
    ``needs`` says so in words.
    """
    found = target.compute_capability
    if found is None:
        return f"it needs an NVIDIA GPU, and this is {target.platform}"
    if found < least or (below is not None and found >= below):
        return f"{needs}, and this GPU has {'.'.join(map(str, found))}"
    if dtype not in HALF_PRECISION:
        return f"it takes bfloat16 or float16, not {dtype}"
    return None


def current_target() -> Target:
    """The devices of the mesh in scope (``jax.set_mesh``), else the default backend's first device.

    The mesh decides, so that a host without accelerators compiles for a pod's devices what the pod
    itself would run.
    """
    meant = jax.sharding.get_abstract_mesh().abstract_device
    device = jax.devices()[0]
    if meant is not None and meant.platform != device.platform:
        return Target(meant.platform)
    if device.platform != "gpu" or "NVIDIA" not in device.device_kind.upper():
        return Target(device.platform)
    major, minor = str(device.compute_capability).split(".")
    return Target("gpu", (int(major), int(minor)))


def current_cores() -> int:
    """Multiprocessors of the mesh's GPU, else of the first device. Raises off GPUs."""
    meant = jax.sharding.get_abstract_mesh().abstract_device
    cores = None if meant is None else meant.num_cores
    return cores or jax.devices()[0].core_count
