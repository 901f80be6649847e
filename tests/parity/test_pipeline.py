"""Golden case G: encode, transformer, decode, with the functions that pipeline.py calls.

The weights go through the converter and the checkpoint, as a user's do.
"""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from skipsr_jax.checkpoints.convert import import_official
from skipsr_jax.inference.coding_plan import DENSE, CodingPlan
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Sampler
from skipsr_jax.tokens.blocks import plan_blocks

LIMIT = 1e-4


@pytest.fixture(scope="module")
def folder(golden):
    return golden / "G_pipeline"


@pytest.fixture(scope="module")
def case(folder):
    return json.loads((folder / "case.json").read_text())


@pytest.fixture(scope="module")
def runs(folder):
    found = {path.stem: np.load(path) for path in sorted(folder.glob("*.npz"))}
    assert found, f"no cases in {folder}"
    return {name: {k: np.asarray(v, np.float32) for k, v in a.items()} for name, a in found.items()}


@pytest.fixture(scope="module")
def model(folder, case, runs, tmp_path_factory):
    place = tmp_path_factory.mktemp("golden")
    sources = {part: str((folder / case[part]).resolve()) for part in ("dit", "vae")}
    vae_case = json.loads(((folder / case["vae"]).parent / "case.json").read_text())
    text = str(place / "text.safetensors")
    save_file({"text": next(iter(runs.values()))["txt"]}, text)
    out = str(place / "model")
    groups = vae_case["constructor"]["norm_num_groups"]
    import_official(out, sources, {"positive": text}, norm_groups=groups)
    return load_model(out, "float32")


def close(ours, theirs, what):
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape, what
    error = np.abs(ours - theirs).max()
    assert error <= LIMIT, f"{what}: max abs diff {error:.2e}"


# The official pack asks for more programs, and for none of another kind.
@pytest.mark.parametrize(
    "golden", ["small", pytest.param("official", marks=pytest.mark.slow)], indirect=True
)
def test_every_stage(case, runs, model):
    assert model.coder.config.scaling_factor == case["scaling_factor"]
    sampler = Sampler(
        steps=case["steps"], guidance=case["cfg_scale"], rescale=0.0, condition_noise=0.0
    )
    for name, arrays in runs.items():
        text = {"positive": jnp.asarray(arrays["txt"])}
        programs = Programs(dataclasses.replace(model, params=model.params | {"text": text}))
        frames = np.moveaxis(arrays["x"], 0, -1)[None]
        slices = [frames[:, part] for part in DENSE.slices(frames.shape[1])]
        latent = programs.coder.encode(slices, jnp.asarray(arrays["eps"][None]))
        close(latent[0], arrays["latent"], f"{name} latent")

        grid = (latent.shape[1], latent.shape[2] // 2, latent.shape[3] // 2)
        noise = jnp.asarray(arrays["noise"][None])
        refined, _ = programs.refine(latent, np.ones(grid, bool), noise, sampler)
        close(refined[0], arrays["x0"], f"{name} x0")

        blocks = plan_blocks(np.ones(grid, bool), grid[1] * grid[2])
        sparse = CodingPlan("sparse", blocks=tuple(blocks))
        for plan in (DENSE, sparse) if grid[0] > 1 else (DENSE,):
            parts = [np.asarray(part) for part in programs.coder.decode(refined, slices, plan)]
            video = np.moveaxis(np.concatenate(parts, axis=1)[0], -1, 0)
            close(video, arrays["video"], f"{name} video, {plan.mode}")
