"""Files of weights are found by their public names, and what they are is said."""

import dataclasses
import hashlib

import numpy as np
import pytest

from skipsr_jax.checkpoints.lazy import of_array
from skipsr_jax.checkpoints.torch_writer import write
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.measures import weights


def test_reads_checks_the_hash_and_says_so(tmp_path):
    path = tmp_path / "lpips/weights/v0.1/alex.pth"  # as in the unpacked wheel
    path.parent.mkdir(parents=True)
    write(path, {"lin0.model.1.weight": of_array(np.ones((1, 2, 1, 1), np.float32))})
    found = weights.Weights(tmp_path)
    assert found.read(weights.LPIPS_ALEX)["lin0.model.1.weight"].shape == (1, 2, 1, 1)
    assert "NOT the public file" in found.used[str(path)]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found.read(dataclasses.replace(weights.LPIPS_ALEX, sha256=digest[:8]))
    assert found.used[str(path)] == f"sha256 {digest[:16]}, the public file"


def test_a_missing_file_says_where_it_comes_from(tmp_path):
    with pytest.raises(
        UserError, match=r"alexnet-owt-7be5be79\.pth in the folder --weights; it is h"
    ):
        weights.Weights(tmp_path).read(weights.ALEXNET)
    with pytest.raises(UserError, match="there is no folder"):
        weights.Weights(tmp_path / "nowhere")


def test_files_of_weights_are_found_at_any_depth(tmp_path):
    assert weights.Weights(None).files() == []
    (tmp_path / "lpips").mkdir()
    for name in ("lpips/alex.pth", "dists.pt", "scores.json"):
        (tmp_path / name).touch()
    found = weights.Weights(tmp_path).files()
    assert found == [tmp_path / "dists.pt", tmp_path / "lpips/alex.pth"]
