"""The JSON that travels with a checkpoint, and the checks of it.

Invariant: what `read` returns is what was saved (it has a digest), with entries of the types that
the rest of the code relies on.
"""

import hashlib
import json
import sys
from typing import Any

from etils import epath

from skipsr_jax.checkpoints.damage import DamagedCheckpointError, damage_as_one_line
from skipsr_jax.config import value_text
from skipsr_jax.errors import UserError

FORMAT_VERSION = 1
_DIGEST = "config_sha256"
"""The entry with the digest of the others."""
_NETWORKS = ("dit", "vae", "light_coder", "predictor", "adapter")
_DICTS_OF_DICTS = ("exported", "mixed_dtypes", "sources")
_TYPES = {
    **dict.fromkeys(
        (*_NETWORKS, *_DICTS_OF_DICTS, "checksums", "base", "goodput_seconds"), (dict,)
    ),
    **dict.fromkeys(("tau", "elapsed_seconds"), (float, int)),
    **dict.fromkeys(("precision", "base_checkpoint"), (str,)),
}


def facts(config: dict[str, Any], checksums: dict[str, str]) -> dict[str, Any]:
    """What is saved as the config of a checkpoint whose arrays have these checksums."""
    whole = config | {"format_version": FORMAT_VERSION, "checksums": checksums}
    return whole | {_DIGEST: _digest(whole)}


def read(folder: epath.Path) -> dict[str, Any]:
    """The config of one step's folder.

    Raises UserError for a format that this version does not read, and DamagedCheckpointError when
    the file is no JSON, is not what was saved, or has an entry of a wrong type.
    """
    with damage_as_one_line(folder):
        config = json.loads((folder / "config" / "metadata").read_text())
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{folder}: format_version {value_text(version)}; this code reads {FORMAT_VERSION}"
        )
    if config.pop(_DIGEST, None) not in (None, _digest(config)):
        raise DamagedCheckpointError(
            f"{folder}: its config is not the one that was saved (who changed it on purpose, "
            f"removes {_DIGEST} from it)"
        )
    wrong = _wrong_entry(config)
    if wrong is not None:
        raise DamagedCheckpointError(f"{folder}: in its config, {wrong}")
    return config


def _digest(config: dict[str, Any]) -> str:
    """The SHA-256 of a config, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _wrong_entry(config: dict[str, Any]) -> str | None:
    for name, kinds in _TYPES.items():
        if name in config and type(config[name]) not in kinds:
            return f"{name} is {type(config[name]).__name__}, not {kinds[0].__name__}"
    for name in _DICTS_OF_DICTS:
        for key, value in config.get(name, {}).items():
            if type(value) is not dict:
                return f"{name}.{key} is {type(value).__name__}, not dict"
    for name in ("tau", "elapsed_seconds"):
        if not 0 <= config.get(name, 0) <= sys.float_info.max:
            return f"{name} is negative or not finite"
    return None
