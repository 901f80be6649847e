"""CONTRIBUTING.md names files that exist, and names that stand in them."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = " ".join((ROOT / "CONTRIBUTING.md").read_text().split())


def test_its_files_exist():
    named = set(re.findall(r"`([\w.]+(?:/[\w.]+)+/?|[\w]+\.(?:md|toml|txt))`", TEXT))
    assert len(named) > 20
    absent = {name for name in named if not (ROOT / name).exists()}
    assert {name for name in absent if "NAME" not in name} == set()


def test_its_names_stand_in_the_files_that_it_says():
    pairs = re.findall(r"`(\w+)` (?:in|of) `([\w/]+\.py)`", TEXT)
    assert len(pairs) >= 8
    for name, path in pairs:
        defined = rf"^\s*(?:def|class) {name}\b|^{name}\b.*="
        text = (ROOT / path).read_text()
        assert re.search(defined, text, re.MULTILINE), f"{path} does not define {name}"
