"""Writes the files of a model checkpoint, with Orbax.

Apart from ``store``, so that whoever only reads checkpoints does not import Orbax.
"""

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from skipsr_jax.checkpoints import config_item
from skipsr_jax.checkpoints.checksums import device_checksums, host_checksums
from skipsr_jax.checkpoints.streaming import CHUNK_BYTES, state_handler
from skipsr_jax.models.params import Params, flatten

_WRITE_GB = 1  # what Orbax may hold in memory on top of the arrays themselves


def write_model(
    folder: epath.Path, params: Params, config: dict[str, Any], step: int, card: str
) -> None:
    """Writes what ``store.save_model`` was given into an empty folder."""
    if card:
        (folder / "README.md").write_text(card)
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    handlers = {"state": state_handler(_WRITE_GB), "config": ocp.JsonCheckpointHandler()}
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), params)
    with ocp.CheckpointManager(folder, options=options, item_handlers=handlers) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave({"params": params}, save_args={"params": save_args}),
                config=ocp.args.JsonSave(config_item.facts(config, _checksums(params))),
            ),
        )


def _checksums(params: Params) -> dict[str, str]:
    """Of the arrays of a model by ``params/path``, as `train_state.save_step` names them."""
    flat = flatten({"params": params})
    over_hosts = [
        name
        for name, leaf in flat.items()
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    ]
    spread = {name: flat.pop(name) for name in over_hosts}
    return host_checksums(flat) | device_checksums(spread)
