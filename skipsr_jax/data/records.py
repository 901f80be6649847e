"""Reading a dataset that ``python -m skipsr_jax.data.build`` wrote: clips as encoded bytes.

The folder is a tensorflow-datasets folder of ArrayRecord files with an ``index.json`` beside them,
which says what each record holds without reading it. TensorFlow is not needed. Invariant: entry i
of the index describes record i.
"""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from skipsr_jax.data.source import Source
from skipsr_jax.errors import UserError, imports_of_extra

INDEX_NAME = "index.json"
INDEX_FORMAT = 1
SPLIT = "train"


def is_built(root: str | pathlib.Path) -> bool:
    """Whether the folder is a built dataset."""
    return (pathlib.Path(root) / INDEX_NAME).is_file()


@functools.lru_cache(maxsize=64)
def open_records(root: str) -> Sequence[dict[str, Any]]:
    """The records of a dataset, read as they are asked for; opened once in each process."""
    with imports_of_extra("train"):  # here, for plain folders of clips need it not
        import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(root).as_data_source(SPLIT)
    except (tfds.core.DatasetNotFoundError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{root} is not a complete dataset ({error}): build it again") from error


def find_records(root: str) -> list[Source]:
    """Every clip and picture of a built dataset, from its index.

    Raises UserError when the index is not readable or speaks of another number of records.
    """
    path = pathlib.Path(root) / INDEX_NAME
    try:
        index = json.loads(path.read_text())
        found = index["format"]
        if found != INDEX_FORMAT:
            raise UserError(f"{path} has format {found}, not {INDEX_FORMAT}: build it again")
        sources = [
            Source(
                path=root,
                kind=entry["kind"],
                frames=entry["frames"],
                height=entry["height"],
                width=entry["width"],
                record=number,
                cuts=tuple(entry["cuts"]),
            )
            for number, entry in enumerate(index["clips"])
        ]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not the index of a dataset: build it again") from error
    held = len(open_records(root))
    if held != len(sources):
        raise UserError(f"{root} holds {held} of the {len(sources)} records of its index")
    return sources


def payload(root: str, record: int) -> bytes:
    """The encoded file of one record."""
    return bytes(open_records(root)[record]["data"])
