"""A missing checkpoint of public weights says where they are, as docs/weights.md does."""

import pathlib

import pytest

from skipsr_jax.checkpoints import store
from skipsr_jax.checkpoints.public_weights import PUBLIC_WEIGHTS
from skipsr_jax.commandline import read_config
from skipsr_jax.errors import UserError

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "weights.md"


@pytest.mark.parametrize("name", PUBLIC_WEIGHTS)
def test_the_error_and_the_page_name_the_same_files(name, tmp_path):
    checkpoint = read_config(name).checkpoint
    with pytest.raises(UserError, match="no such checkpoint") as raised:
        store.step_folder(tmp_path / checkpoint)
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    for word in PUBLIC_WEIGHTS[name]:
        assert word in str(raised.value) and f"`{word}`" in row


def test_other_names_say_nothing_of_public_weights(tmp_path):
    with pytest.raises(UserError) as raised:
        store.step_folder(tmp_path / "mine")
    assert "public weights" not in str(raised.value)
