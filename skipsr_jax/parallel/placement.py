"""Which mesh axes hold packs, and which share the tokens (or the pixels) of one pack.

Packs lie over (data, fsdp) and each pack's tokens over seq. Where there are not enough packs for
that (inference has one), every device takes part in every pack: its tokens lie over all axes.
Invariant: every mesh axis is used, so no device repeats the work of another.
"""

import dataclasses
from typing import Any

import jax

AXES = ("data", "fsdp", "seq")
PACK_AXES = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class Placement:
    """``packs``, ``tokens``: mesh axes; () is not cut. ``shards``: devices that share a pack."""

    packs: tuple[str, ...]
    tokens: tuple[str, ...]
    shards: int


def placement(packs: int, mesh: Any = None) -> Placement:
    """Where ``packs`` packs lie on ``mesh``, by default the current one (``jax.set_mesh``)."""
    mesh = jax.sharding.get_abstract_mesh() if mesh is None else mesh
    if mesh.empty or mesh.size == 1:
        return Placement((), (), 1)
    if packs % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0:
        return Placement(PACK_AXES, ("seq",), mesh.shape["seq"])
    return Placement((), AXES, mesh.size)
