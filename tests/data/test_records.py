"""What is refused of a built dataset that is not whole."""

import json

import pytest
from PIL import Image

from skipsr_jax.data.build import build
from skipsr_jax.data.records import find_records, open_records, payload
from skipsr_jax.errors import UserError


@pytest.fixture
def root(tmp_path):
    (tmp_path / "raw").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 16), (i, 0, 0)).save(tmp_path / "raw" / f"{'abc'[i]}.png")
    build(str(tmp_path / "raw"), str(tmp_path / "out"))
    return tmp_path / "out"


def test_records_are_the_files_in_the_order_of_the_index(root):
    index = json.loads((root / "index.json").read_text())["clips"]
    assert sorted(entry["name"] for entry in index) == ["a.png", "b.png", "c.png"]
    for number, (source, entry) in enumerate(zip(find_records(str(root)), index, strict=True)):
        assert (source.record, source.height, source.width) == (number, 16, 32)
        assert payload(str(root), number) == (root.parent / "raw" / entry["name"]).read_bytes()


def test_damaged_datasets_are_refused(root):
    path = root / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(index | {"clips": index["clips"][:2]}))
    with pytest.raises(UserError, match="holds 3 of the 2"):
        find_records(str(root))
    path.write_text(json.dumps(index | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        find_records(str(root))
    path.write_text("[")
    with pytest.raises(UserError, match="not the index"):
        find_records(str(root))
    (root / "dataset_info.json").unlink()
    path.write_text(json.dumps(index))
    open_records.cache_clear()
    with pytest.raises(UserError, match="not a complete dataset"):
        find_records(str(root))
