"""Masks that act elsewhere in the transformer, and the comparison at its smallest."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from small_model import SMALLEST_DIT

from benchmarks import masks, sparse_plans, sparsity
from benchmarks.masks import blob_mask
from benchmarks.models import abstract_dit, plan_for, random_inputs, random_parameters
from skipsr_jax.errors import UserError
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.kernels.attention import IMPLEMENTATIONS
from skipsr_jax.models.predictor import PredictorConfig
from skipsr_jax.parallel.mesh import make_mesh

GRID = (2, 6, 8)


@pytest.fixture
def kept_queries(monkeypatch):
    monkeypatch.setitem(IMPLEMENTATIONS, sparse_plans.KEPT_QUERIES, None)  # undone at the end
    sparse_plans.offer_kept_queries()


@pytest.fixture(scope="module")
def run():
    """(plan, attention) -> velocity of each patch of the clip, NaN where none was stored."""
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    params = random_parameters(abstract_dit(SMALLEST_DIT, np.float32), mesh)
    rng = np.random.default_rng(0)
    patches = [rng.standard_normal((int(np.prod(GRID)), 4 * c), np.float32) for c in (16, 17)]

    def of(plan, attention=None):
        dit = abstract_dit(SMALLEST_DIT, np.float32, attention)
        tokens = [x[plan.patch_index] * plan.valid[..., None] for x in patches]
        inputs = (*tokens, *random_inputs(SMALLEST_DIT, plan, np.float32)[2:])
        out = np.asarray(velocity_step(dit)(params, *inputs))
        full = np.full((patches[0].shape), np.nan, np.float32)
        full[plan.patch_index[plan.valid]] = out[plan.valid]
        return full

    return of


@pytest.mark.slow
def test_masked_attention_gives_kept_tokens_the_result_of_skipping(run):
    keep = blob_mask(GRID, 0.5)
    around, masked = run(plan_for(keep)), run(sparse_plans.attention_masked(keep))
    assert not np.isnan(masked).any() and np.isnan(around).any()
    kept = keep.reshape(-1)
    np.testing.assert_allclose(masked[kept], around[kept], atol=1e-5)


def test_masked_queries_attend_to_all_keys(run, kept_queries):
    keep = blob_mask(GRID, 0.5)
    dense = run(plan_for(np.ones_like(keep)))
    masked = run(sparse_plans.queries_masked(keep), sparse_plans.KEPT_QUERIES)
    kept = keep.reshape(-1)
    np.testing.assert_allclose(masked[kept], dense[kept], atol=1e-5)
    assert np.abs(masked - dense)[~kept].mean() > 1e-3  # they were no queries


@pytest.mark.slow
def test_all_variants_in_one_run(tmp_path, monkeypatch, kept_queries):
    monkeypatch.setitem(sparsity.DIT_PRESETS, "tiny", dataclasses.replace(SMALLEST_DIT, layers=2))
    monkeypatch.setattr(sparsity, "PAPER", PredictorConfig(width=8))
    np.save(tmp_path / "real.npy", blob_mask((2, 2, 3), 0.25))
    out = tmp_path / "sparsity.json"
    small = (
        "sparsity --model=tiny --frames=5 --height=32 --width=48 --dtype=float32 --repeats=1 "
        f"--dense_every=2 --masks=0.5,{tmp_path}/real.npy --out={out}"
    )
    assert sparsity.main(small.split()) == 0
    rows = json.loads(out.read_text())["rows"]
    variants = ["around", "around, all", "attention", "queries", "dense in 2"]
    assert [row["variant"] for row in rows] == ["dense", "dense, all", *variants, *variants]
    assert [row["skipped_percent"] for row in rows] == [0] * 2 + [50] * 5 + [25] * 5
    seconds = {row["variant"]: row["seconds"] for row in rows[:7]}
    for row in rows[2:7]:
        base = "dense, all" if row["variant"] == "around, all" else "dense"
        assert row["faster"] == pytest.approx(seconds[base] / row["seconds"])
    assert rows[3]["predictor_seconds"] > 0 and rows[3]["plan_seconds"] > 0


def test_masks_that_are_none(tmp_path):
    np.save(tmp_path / "wrong.npy", np.zeros((2, 2)))
    np.save(tmp_path / "none.npy", np.zeros((2, 2, 2), bool))
    for mask, says in (("half", "'half' is neither a fraction"), ("no.npy", "cannot read no.npy"),
                       (f"{tmp_path}/wrong.npy", "must hold booleans"),
                       (f"{tmp_path}/none.npy", "keeps no patch")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            sparsity.main(["sparsity", f"--masks={mask}"])
    with pytest.raises(UserError, match="--clip"):
        masks.main(["masks"])
