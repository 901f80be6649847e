"""Opens the arrays of one step's folder in the files that Orbax writes: zarr arrays in OCDBT.

TensorStore alone reads them. Orbax would take 0.2 s more to be imported, and 0.3 s to describe the
arrays of the tiny model, which it opens again and again for that.
"""

import json
import os
from collections.abc import Iterable
from typing import Any

import tensorstore as ts
from etils import epath

_CONTEXT = {
    "file_io_concurrency": {"limit": 128},
    "cache_pool#nodes": {"total_bytes_limit": 100_000_000},  # of the index, else read every time
}


def key_value_store(state: epath.Path) -> dict[str, Any]:
    """TensorStore's specification of the folder's key-value store."""
    folder = f"{os.fspath(state)}/"
    store = {"driver": "ocdbt", "cache_pool": "cache_pool#nodes"}
    if "://" not in folder:
        return store | {"base": {"driver": "file", "path": folder}}
    # As Orbax sets it for remote storage: reads next to each other become one.
    return store | {
        "base": folder,
        "experimental_read_coalescing_threshold_bytes": 1_000_000,
        "experimental_read_coalescing_merged_bytes": 500_000_000_000,
        "experimental_read_coalescing_interval": "1ms",
    }


def _metadata(state: epath.Path) -> dict[str, Any]:
    return json.loads((state / "_METADATA").read_text())


def array_paths(state: epath.Path) -> list[str]:
    """The paths (``params/dit/vid_in/kernel``) of all arrays below a folder ``state``."""
    entries = _metadata(state)["tree_metadata"].values()
    return [
        "/".join(str(part["key"]) for part in entry["key_metadata"])
        for entry in entries
        if not entry["value_metadata"]["skip_deserialize"]  # an empty container
    ]


def open_arrays(state: epath.Path, paths: Iterable[str]) -> dict[str, ts.TensorStore]:
    """The arrays at ``paths`` as `array_paths` names them, opened and not read yet.

    Raises what TensorStore raises, mostly ValueError, for files that are absent or damaged.
    """
    context = ts.Context(_CONTEXT)
    driver = "zarr3" if _metadata(state).get("use_zarr3") else "zarr"
    opening = {
        path: ts.open(
            {
                "driver": driver,
                "kvstore": key_value_store(state) | {"path": path.replace("/", ".") + "/"},
                "recheck_cached_data": False,
                "recheck_cached_metadata": False,
                "fill_missing_data_reads": False,  # raise instead
            },
            read=True,
            open=True,
            context=context,
        )
        for path in paths
    }
    return {path: array.result() for path, array in opening.items()}
