"""Reads adapters (LoRA), from the workdir of a training run or from what export wrote of one.

The config of either has ``adapter``, the numbers of ``models.adapter.Adapter``, and ``base``, the
sizes of the transformer that it was trained for. Invariant: an adapter is merged into a transformer
of these sizes or into none.
"""

import dataclasses
from typing import Any

import numpy as np

from skipsr_jax.checkpoints import store
from skipsr_jax.config import from_json
from skipsr_jax.errors import UserError
from skipsr_jax.models.adapter import Adapter, adapted_layers, layer_pair
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.merged_adapter import merge_adapter, merged_kernel
from skipsr_jax.models.params import Params

PART = "adapter"
"""Its name among the parameters and in the config."""


@dataclasses.dataclass(frozen=True)
class StoredAdapter:
    """An adapter that was read.

    Attributes:
      source: the step's folder that it comes from, for messages.
      step: of the training run.
      branch: ``params`` or ``ema``.
      adapter: its numbers.
      params: float32, on the host.
      config: what the checkpoint says of it, for a checkpoint that is to hold it.
    """

    source: str
    step: int
    branch: str
    adapter: Adapter
    params: Params
    config: dict[str, Any]

    @property
    def description(self) -> str:
        """Where it comes from, in words."""
        return f"{self.source} (rank {self.adapter.rank})"

    def check(self, config: DiTConfig, source: store.PathLike) -> None:
        """Raises UserError unless ``config``, of the checkpoint ``source``, is what it is for."""
        base = from_json(DiTConfig, self.config["base"], self.source)
        if base != dataclasses.replace(config, remat=base.remat):
            raise UserError(
                f"{self.source}: an adapter for a transformer of width {base.width} with "
                f"{base.layers} layers, not for that of {source} (width {config.width}, "
                f"{config.layers} layers)"
            )

    def merged(self, dit: Params) -> Params:
        """As ``merge_adapter``."""
        return merge_adapter(dit, self.params, self.adapter.scale)

    def merged_array(self, path: str, array: np.ndarray) -> np.ndarray:
        """One array of the transformer on the host, with the adapter merged if it is of a kernel
        that is adapted; for transformers that are not in memory as a whole. ``path``: of the array.
        """
        layer = path.removesuffix("/kernel")
        if layer == path or layer not in adapted_layers(self.params):
            return array
        return merged_kernel(array, *layer_pair(self.params, layer), self.adapter.scale, layer)


def read_adapter(path: store.PathLike, branch: str | None = None) -> StoredAdapter:
    """The adapter at ``path``, a workdir, a step's folder or a checkpoint.

    ``branch``: ``params`` or ``ema``; default: the average where there is one.

    Raises UserError when there is no complete checkpoint or it holds no adapter.
    """
    found = store.step_folder(path)
    config = store.load_config(found)
    if PART not in config:
        held = ", ".join(sorted(store.stored_shapes(found)))
        raise UserError(f"{found}: holds no adapter, but {held}")
    branch = branch or store.best_branch(found)
    params = store.restore_host(found, (PART,), branch=branch)[PART]
    kept = {name: config[name] for name in (PART, "base", "base_checkpoint") if name in config}
    if "base" not in kept:
        raise UserError(f"{found}: its config does not say which transformer its adapter is for")
    adapter = from_json(Adapter, config[PART], str(found))
    return StoredAdapter(str(found), int(found.name), branch, adapter, params, kept)
