"""Golden cases A, B (the transformers) and F (token skipping), within 1e-4 in float32."""

import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.checkpoints import architecture, keys, safetensors_file, staging
from skipsr_jax.diffusion.schedule import clean_from_velocity
from skipsr_jax.models.dit import DiT
from skipsr_jax.models.params import abstract, bind, unflatten
from skipsr_jax.tokens.patches import patchify, unpatchify
from skipsr_jax.tokens.plan import build_plan

LIMIT = 1e-4
FOLDERS = pytest.mark.parametrize("folder", ["A_dit_v2", "B_dit"])


class Network:
    """A golden transformer, loaded through the key table, and its compiled forward."""

    def __init__(self, weights):
        tensors = safetensors_file.read(weights)
        self.config = architecture.dit_config(architecture.shapes_of(tensors), str(weights))
        entries = keys.entries_of(self.config)
        assert not keys.mismatches(entries, tensors)
        with tempfile.TemporaryDirectory() as folder:
            mapped = staging.gather(entries, tensors, pathlib.Path(folder))
            self.params = unflatten({path: np.array(x, np.float32) for path, x in mapped.items()})
        self.module = abstract(lambda rngs: DiT(self.config, rngs=rngs))
        self.run = jax.jit(lambda params, *args: bind(self.module, params)(*args))


@pytest.fixture(scope="module")
def networks_of(golden):
    return {name: Network(golden / name / "weights.safetensors") for name in ("A_dit_v2", "B_dit")}


def load(path):
    return {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in np.load(path).items()}


def cases_of(folder):
    cases = {path.stem: load(path) for path in sorted(folder.glob("*.npz"))}
    assert cases, f"no cases in {folder}"
    return cases


def tokens_of(case):
    """All samples' tokens end to end, and their token grids."""
    rows, tokens, grids = 0, [], []
    for frames, height, width in case["vid_shape"]:
        count = frames * height * width
        latent = case["vid"][rows : rows + count].reshape(1, frames, height, width, -1)
        tokens.append(np.asarray(patchify(jnp.asarray(latent)))[0])
        grids.append((int(frames), int(height) // 2, int(width) // 2))
        rows += count
    return np.concatenate(tokens), grids


def rows_of(tokens, grids):
    """Tokens -> rows of 16 channels in (t, h, w) order, sample after sample."""
    rows, start = [], 0
    for grid in grids:
        count = int(np.prod(grid))
        latent = unpatchify(jnp.asarray(tokens[None, start : start + count]), grid)
        rows.append(np.asarray(latent).reshape(-1, latent.shape[-1]))
        start += count
    return np.concatenate(rows)


def arguments(case, keep):
    """Of the forward, for keep masks per sample, and the plan."""
    lengths = case["txt_shape"][:, 0].tolist()
    text = np.zeros((len(lengths), max(lengths), case["txt"].shape[1]), np.float32)
    for i, (end, length) in enumerate(zip(np.cumsum(lengths), lengths, strict=True)):
        text[i, :length] = case["txt"][end - length : end]
    tokens, grids = tokens_of(case)
    plan = build_plan(keep, lengths)
    index = plan.patch_index[0]
    stored = np.where((index >= 0)[:, None], tokens[index], 0)[None]
    return (stored, text.reshape(1, -1, text.shape[-1]), case["timestep"][None], plan), grids


def velocity(network, case, keep):
    """Rows as in the golden file, zero where skipped."""
    args, grids = arguments(case, keep)
    out = np.asarray(network.run(network.params, *args))[0]
    plan = args[-1]
    full = np.zeros((sum(mask.size for mask in keep), out.shape[-1]), np.float32)
    full[plan.patch_index[0][plan.valid[0]]] = out[plan.valid[0]]
    return rows_of(full, grids)


def everything(case):
    return [np.ones((t, h // 2, w // 2), bool) for t, h, w in case["vid_shape"]]


def close(ours, theirs, what):
    error = np.abs(np.asarray(ours, np.float32) - theirs).max()
    assert error <= LIMIT, f"{what}: max abs diff {error:.2e}"


@FOLDERS
def test_velocity(golden, networks_of, folder):
    for name, case in cases_of(golden / folder).items():
        close(velocity(networks_of[folder], case, everything(case)), case["vid_sample"], name)


@FOLDERS
def test_inner_activations(golden, networks_of, folder):
    """Layer by layer, where the case has single samples and all inner arrays."""
    network = networks_of[folder]

    def trace(params, patches, text, timestep, plan):
        model = bind(network.module, params)
        vid, txt = model.vid_in(patches), model.txt_in(text)
        embedding = model.emb_in(timestep)
        found = {"vid_in": vid, "txt_in": txt, "emb": embedding}
        layer = 0
        for stack, _, _ in model.stacks:
            graphdef, stacked = nnx.split(getattr(model, stack))
            for i in range(jax.tree.leaves(stacked)[0].shape[0]):
                block = nnx.merge(graphdef, jax.tree.map(lambda a, i=i: a[i], stacked))
                plain = network.config.plain_text_at_last and layer == network.config.layers - 1
                vid, txt = block(
                    vid, txt, embedding, plan, jnp.int32(layer % 2), jnp.bool_(not plain), None
                )
                found[f"block{layer}_vid"] = vid
                if not plain:
                    found[f"block{layer}_txt"] = txt
                layer += 1
        return found

    checked = 0
    for name, case in cases_of(golden / folder).items():
        if "vid_in" not in case:
            continue
        args, _ = arguments(case, everything(case))
        found = jax.jit(trace)(network.params, *args)
        plan = args[-1]
        for key, ours in found.items():
            if key not in case:
                continue
            ours = np.asarray(ours)[0]
            if key.endswith(("_vid", "vid_in")):
                ours = ours[plan.valid[0]][np.argsort(plan.patch_index[0][plan.valid[0]])]
            close(ours, case[key], f"{name}.{key}")
            checked += 1
    assert checked >= network.config.layers


@pytest.mark.slow
def test_skipping(golden, networks_of):
    """Every mask: only kept tokens run, in the windows and at the places of the full grid."""
    folder = golden / "F_skip"
    about = json.loads((folder / "case.json").read_text())
    source = (folder / about["weights"]).resolve().parent
    network, inputs, checked = networks_of[source.name], cases_of(source), 0
    for name, masked in cases_of(folder).items():
        case = inputs[name]
        for mask in (key.removesuffix("__skip") for key in masked if key.endswith("__skip")):
            keep = ~masked[f"{mask}__skip"].astype(bool)
            if not keep.any():
                continue  # nothing runs: inference returns the condition, tested there
            ours = velocity(network, case, [keep])
            theirs = masked.get(f"{mask}__pred", case["vid_sample"])
            close(ours, theirs, f"{name}.{mask}")
            checked += 1
            if f"{mask}__composed_x0" not in masked:
                continue
            channels = ours.shape[1]
            noisy, condition = np.split(case["vid"][:, : 2 * channels], 2, axis=1)
            clean = clean_from_velocity(
                jnp.asarray(ours), jnp.asarray(noisy), jnp.full(len(ours), case["timestep"][0])
            )
            _, grids = tokens_of(case)
            kept = rows_of(np.repeat(keep.reshape(-1, 1), 4, 1).astype(np.float32), grids) > 0
            composed = np.where(kept, np.asarray(clean), condition)
            close(composed, masked[f"{mask}__composed_x0"], f"{name}.{mask} composed")
    assert checked
