"""Data workers are many processes without a device: all that they run works where jax is absent."""

import pathlib
import subprocess
import sys

import pytest
from media_clips import write_clip

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BLOCK_JAX = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("jax", "jaxlib", "flax"):
            raise ImportError(f"{name} is blocked in this test")

sys.meta_path.insert(0, Blocked())
"""
IMPORT_ALL = """
import importlib, pkgutil

for room in ("skipsr_jax.media", "skipsr_jax.data"):
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        importlib.import_module(module.name)
"""
MAKE_A_BATCH = """
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.data.dataset import batches, iterate
from skipsr_jax.data.sample import Recipe
from skipsr_jax.data.packing import Packing

packing = Packing(samples=2, guided=True)
recipe = Recipe(ClipShape(2, 5, 32, 48), None, pan_share=0.0, packing=packing)
dataset = batches(find_sources([sys.argv[1]]), recipe)
batch = next(iterate(dataset, workers=0))
assert batch.hr[0].shape == (2, 5, 32, 48, 3)
assert batch.plan.valid.any() and batch.negative_plan.text_length.shape == (1, 2)
"""


@pytest.mark.parametrize("script", [IMPORT_ALL, MAKE_A_BATCH], ids=["imports", "a batch"])
def test_data_workers_need_no_jax(tmp_path, script):
    write_clip(tmp_path / "clip.mp4", frames=8)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_JAX + script, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
