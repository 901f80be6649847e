"""A larger model that computes exactly what a smaller one does, so that its training begins there.

- ``larger_light_coder``, for the light coder, which has no norm: old channels keep their kernels
  and read zeros of the new ones, which begin as those of a fresh model. A step of training makes
  them count. New residual blocks come after the old ones of their level and add nothing.
- ``deeper``, for the transformer: new blocks before the last one, whose output layers are zeros,
  add nothing to the tokens.

The idea is that of Net2Net (Chen et al. 2016, arXiv 1511.05641), with zeros in place of copied and
divided channels.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from skipsr_jax.models.params import Params, flatten, unflatten
from skipsr_jax.types import HostArray, Int

_IN_GROUPS = {"encoder/to_quarter": 8, "encoder/to_eighth": 8}
_OUT_GROUPS = {"decoder/to_quarter": 8, "decoder/to_half": 8}
"""Layers of the light coder whose channels are those of eight pixels and frames, one after the
other."""
_BLOCK = re.compile(r"(?:encoder|decoder)/(?:half|quarter|eighth)/\d+/(conv[12])/.*")
"""The name of a parameter of one of the light coder's residual blocks, and of its convolution."""
_SHARED = "shared_blocks/"
_RESIDUAL = ("/proj_out/kernel", "/proj_out/bias")
"""The ends of the names of layers whose results a transformer's block adds to the tokens."""


def _positions(old: int, new: int, groups: int) -> Int[HostArray, "old"]:
    """Where the ``old`` channels lie among the ``new`` ones, of ``groups`` groups each."""
    starts = np.arange(groups)[:, None] * (new // groups)
    return (starts + np.arange(old // groups)).reshape(-1)


def larger_light_coder(small: Params, fresh: Params) -> Params:
    """A light coder's parameters in the shapes of ``fresh``, with the results of ``small``.

    Args:
      small: parameters of a light coder.
      fresh: random ones of another that has at least as many blocks and channels everywhere.

    Raises ValueError when ``fresh`` has fewer blocks or channels somewhere, or other layers.
    """
    old, new = flatten(small), flatten(fresh)
    parts = {name: _BLOCK.fullmatch(name) for name in new.keys() - old.keys()}
    if old.keys() - new.keys() or not all(parts.values()):
        raise ValueError("a light coder can grow in channels and blocks alone")
    grown = {}
    for name, part in parts.items():
        added = jnp.asarray(new[name], jnp.float32)
        grown[name] = jnp.zeros_like(added) if part[1] == "conv2" else added
    for name, kept in old.items():
        kept, made = np.asarray(kept, np.float32), np.array(new[name], np.float32)
        if any(a > b for a, b in zip(kept.shape, made.shape, strict=True)):
            raise ValueError(f"{name} has shape {kept.shape}, more than {made.shape}")
        layer = name.rpartition("/")[0]
        rows = _positions(kept.shape[-1], made.shape[-1], _OUT_GROUPS.get(layer, 1))
        if kept.ndim == 1:
            made[rows] = kept
        else:
            beside = 2 if kept.shape[-2] == 2 * kept.shape[-1] and layer.endswith("conv1") else 1
            groups = _IN_GROUPS.get(layer, beside)
            columns = _positions(kept.shape[-2], made.shape[-2], groups)
            made[..., rows] = 0
            made[..., columns[:, None], rows] = kept
        grown[name] = jnp.asarray(made)
    return unflatten(grown)


def _shared_blocks(flat: Mapping[str, Any]) -> int:
    """How many blocks of a transformer video and text share."""
    return next((len(x) for name, x in flat.items() if name.startswith(_SHARED)), 0)


def _shapes_of_one(flat: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter; of the shared blocks, which are stacked, that of one of them."""
    return {name: x.shape[1:] if name.startswith(_SHARED) else x.shape for name, x in flat.items()}


def deeper(small: Params, fresh: Params) -> Params:
    """A transformer's parameters in the shapes of ``fresh``, with the results of ``small``.

    Args:
      small: parameters of a transformer with blocks that video and text share.
      fresh: random ones of another that has at least as many of them, and is the same otherwise.

    Raises ValueError when ``fresh`` differs in more than that.
    """
    old, new = flatten(small), flatten(fresh)
    count, total = _shared_blocks(old), _shared_blocks(new)
    if _shapes_of_one(old) != _shapes_of_one(new) or not 0 < count <= total:
        raise ValueError("a transformer can grow in blocks that video and text share alone")
    grown = {}
    for name, kept in old.items():
        kept = np.asarray(kept, np.float32)
        if name.startswith(_SHARED):
            added = np.array(new[name][count - 1 : total - 1], np.float32)
            if name.endswith(_RESIDUAL):
                added[:] = 0
            kept = np.concatenate([kept[:-1], added, kept[-1:]])
        grown[name] = jnp.asarray(kept)
    return unflatten(grown)
