"""``reference`` gives the official numbers, and the committed numbers come from it."""

import json

import numpy as np
import pytest
from parity import reference
from safetensors.numpy import load_file

# The official numbers are float32; the committed ones are these numbers, rounded to float32.
LIMIT = {"official": 5e-5, "small": 1e-6}


@pytest.fixture
def close(request):
    limit = LIMIT[request.node.callspec.params["golden"]]

    def check(ours, theirs, what):
        error = np.abs(ours.reshape(theirs.shape) - theirs).max()
        assert error <= limit * max(1, np.abs(theirs).max()), f"{what}: max abs diff {error:.2e}"

    return check


def smallest(folder):
    """Name and arrays of the smallest file of a case, and the constructor's arguments."""
    path = min(folder.glob("*.npz"), key=lambda path: path.stat().st_size)
    constructor = json.loads((folder / "case.json").read_text()).get("constructor")
    return path.stem, dict(np.load(path)), constructor


def samples(case):
    """(rows of the sample, latent, text, timestep) of each."""
    row = text = 0
    for shape, (length,), timestep in zip(
        case["vid_shape"], case["txt_shape"], case["timestep"], strict=True
    ):
        rows = slice(row, row + int(np.prod(shape)))
        latent = case["vid"][rows].reshape(*shape, -1)
        yield rows, latent, case["txt"][text : text + length], timestep
        row, text = rows.stop, text + length


@pytest.mark.parametrize("name", ["A_dit_v2", "B_dit"])
def test_transformer(golden, close, name):
    _, case, constructor = smallest(golden / name)
    dit = reference.DiT(load_file(golden / name / "weights.safetensors"), constructor["heads"])
    for rows, latent, text, timestep in samples(case):
        t, h, w, _ = latent.shape
        velocity, _ = dit(latent, text, timestep, np.ones((t, h // 2, w // 2), bool))
        close(velocity, case["vid_sample"][rows], name)


def test_skipping(golden, close):
    name, masked, _ = smallest(golden / "F_skip")
    about = json.loads((golden / "F_skip" / "case.json").read_text())
    source = (golden / "F_skip" / about["weights"]).resolve().parent
    heads = json.loads((source / "case.json").read_text())["constructor"]["heads"]
    dit = reference.DiT(load_file(source / "weights.safetensors"), heads)
    ((_, latent, text, timestep),) = samples(np.load(source / f"{name}.npz"))
    for key in (key for key in masked if key.endswith("__pred")):
        keep = ~masked[key.replace("__pred", "__skip")].astype(bool)
        if keep.any():
            close(dit(latent, text, timestep, keep)[0], masked[key], key)


def test_autoencoder(golden, close):
    _, case, constructor = smallest(golden / "D_vae")
    weights = load_file(golden / "D_vae" / "weights.safetensors")
    vae = reference.VAE(weights, constructor["norm_num_groups"])
    mean, logvar, _ = vae.encode(np.moveaxis(case["x"][0], 0, -1))
    close(np.moveaxis(mean, -1, 0), case["mean"], "mean")
    close(np.moveaxis(logvar, -1, 0), case["logvar"], "logvar")
    decoded, _ = vae.decode(np.moveaxis(case["z"][0], 0, -1))
    close(np.moveaxis(decoded, -1, 0), case["decoded"], "decoded")


def test_window_partition(golden):
    for case in json.loads((golden / "C_windows" / "windows.json").read_text())["grids"]:
        for shifted, name in enumerate(("regular", "shifted")):
            boxes = reference.windows(case["grid"], shifted)
            assert [[*t, *r, *q] for t, r, q in boxes] == case[name], (case["grid"], name)
