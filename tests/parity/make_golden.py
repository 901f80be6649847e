"""Writes a golden pack: random small networks, inputs, and what ``reference`` gives for them.

    PYTHONPATH=tests python -m parity.make_golden tests/parity/golden_small
    PYTHONPATH=tests python -m parity.make_golden /tmp/other/golden --pack=other

The files have the layout that the numbers of the official code have (cases A, B, C, D, F, G; not
E, the schedule). Every weight and input but the rotary frequencies is a float16 number: the files
are small, and exact.
"""

import argparse
import dataclasses
import json
import math
import pathlib

import numpy as np
from parity import reference
from safetensors.numpy import save_file

SCALING = 0.9152
LEVELS = np.array([-2, -1, -0.5, 0, 0.5, 1, 2], np.float16)  # few, so that inputs compress


@dataclasses.dataclass(frozen=True)
class Pack:
    """Sizes of everything in a pack.

    Attributes:
      width, text_width, heads: of both transformers. ``head_dims``, ``layers``: of A and B.
      mm_layers: layers of A with weights of their own for video and text.
      channels, groups, resnets: of the autoencoder: widths of its levels, groups of its norms,
        resnets of a level of the encoder.
      dit: latent sizes (t, h, w) of the samples of each case of A, and text lengths; the first
        ``cases_of_b`` are cases of B too.
      masks: cases of A that also run with skipped tokens, and the fractions skipped.
      clips: frames, height and width of the autoencoder's cases; the last has inner activations.
      pipeline: the same for the cases of G; multiples of 16 pixels.
      grids: token grids of the window partition.
    """

    width: int = 16
    text_width: int = 10
    heads: int = 2
    head_dims: tuple[int, int] = (12, 24)
    layers: tuple[int, int] = (2, 2)
    mm_layers: int = 1
    channels: tuple[int, ...] = (4, 4, 8, 8)
    groups: int = 2
    resnets: int = 1
    dit: dict = dataclasses.field(
        default_factory=lambda: {
            "clip": (((5, 4, 6),), (3,)),
            "pair": (((2, 4, 4), (1, 6, 2)), (2, 5)),
            "wide": (((1, 24, 80),), (4,)),  # 2 x 2 windows
        }
    )
    cases_of_b: int = 2
    masks: dict = dataclasses.field(default_factory=lambda: {"clip": (0.3, 0.8), "wide": (0.9,)})
    clips: tuple = ((1, 56, 40), (9, 16, 16), (5, 24, 16))
    pipeline: dict = dataclasses.field(
        default_factory=lambda: {"img": (1, 16, 32), "vid": (5, 32, 16)}
    )
    grids: tuple = ((1, 1, 1), (5, 2, 3), (31, 15, 28), (4, 45, 80), (2, 68, 120), (2, 90, 23))


PACKS = {
    "small": Pack(),
    "other": Pack(
        width=40, text_width=24, heads=5, head_dims=(20, 32), layers=(5, 3), mm_layers=3,
        channels=(16, 32, 32, 48), groups=4, resnets=2,
        dit={
            "a": (((3, 14, 6),), (9,)), "b": (((9, 10, 4),), (1,)), "c": (((1, 36, 64),), (6,)),
            "d": (((1, 2, 2), (4, 8, 6), (2, 4, 4)), (3, 8, 1)),
        },
        cases_of_b=4,
        masks={"a": (0.5,), "b": (0.2, 0.95), "c": (0.6,)},
        clips=((1, 48, 32), (1, 56, 72), (5, 48, 32), (9, 56, 72), (13, 48, 32)),
        pipeline={"one": (1, 48, 32), "two": (9, 48, 80)},
        grids=((2, 19, 33), (7, 40, 11), (120, 51, 51)),
    ),
}  # fmt: skip


class Weights:
    """Collects random tensors under official names, each a float16 number."""

    def __init__(self, rng):
        self.rng, self.tensors = rng, {}

    def add(self, name, shape, mean=0.0, deviation=1.0):
        x = mean + deviation * self.rng.standard_normal(shape)
        self.tensors[name] = x.astype(np.float16)

    def linear(self, name, inputs, outputs, bias=True, kernel=()):
        size = inputs * math.prod(kernel)
        self.add(f"{name}.weight", (outputs, inputs, *kernel), 0, size**-0.5)
        if bias:
            self.add(f"{name}.bias", (outputs,), 0, 0.1)

    def norm(self, name, width, bias=False):
        self.add(f"{name}.weight", (width,), 1, 0.1)
        if bias:
            self.add(f"{name}.bias", (width,), 0, 0.1)


def dit_weights(pack, gated, rng):
    made, d, a = Weights(rng), pack.width, pack.heads
    p, layers = (pack.head_dims[not gated], pack.layers[not gated])
    made.linear("vid_in.proj", 4 * 33, d)
    made.linear("txt_in", pack.text_width, d)
    made.linear("emb_in.proj_in", 256, d)
    made.linear("emb_in.proj_hid", d, d)
    made.linear("emb_in.proj_out", d, 6 * d)
    made.linear("vid_out.proj", d, 4 * 16)
    if gated:
        made.norm("vid_out_norm", d)
        made.add("vid_out_ada.out_shift", (d,), 0, 0.2)
        made.add("vid_out_ada.out_scale", (d,), 1, 0.2)
    hidden = -(-int(2 * d * 4 / 3) // 256) * 256 if gated else 4 * d
    for layer in range(layers):
        block = f"blocks.{layer}"
        frequencies = reference.frequencies(p, gated).astype(np.float32)
        made.tensors[f"{block}.attn.rope.rope.freqs"] = frequencies
        for branch in ("all",) if gated and layer >= pack.mm_layers else ("vid", "txt"):
            made.linear(f"{block}.attn.proj_qkv.{branch}", d, 3 * a * p, bias=False)
            made.linear(f"{block}.attn.proj_out.{branch}", a * p, d)
            made.norm(f"{block}.attn.norm_q.{branch}", p)
            made.norm(f"{block}.attn.norm_k.{branch}", p)
            if gated:
                made.linear(f"{block}.mlp.{branch}.proj_in_gate", d, hidden, bias=False)
            made.linear(f"{block}.mlp.{branch}.proj_in", d, hidden, bias=not gated)
            made.linear(f"{block}.mlp.{branch}.proj_out", hidden, d, bias=not gated)
            for name in ("attn", "mlp"):
                for kind, mean in (("shift", 0), ("scale", 1), ("gate", 0.5)):
                    made.add(f"{block}.ada.{branch}.{name}_{kind}", (d,), mean, 0.2)
    return made.tensors


def vae_weights(pack, rng):
    made, c = Weights(rng), pack.channels

    def conv(name, inputs, outputs, kernel=(3, 3, 3)):
        made.linear(name, inputs, outputs, kernel=kernel)

    def resnet(name, inputs, outputs):
        made.norm(f"{name}.norm1", inputs, bias=True)
        conv(f"{name}.conv1", inputs, outputs)
        made.norm(f"{name}.norm2", outputs, bias=True)
        conv(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            conv(f"{name}.conv_shortcut", inputs, outputs, (1, 1, 1))

    def middle(name, width):
        resnet(f"{name}.resnets.0", width, width)
        made.norm(f"{name}.attentions.0.group_norm", width, bias=True)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            made.linear(f"{name}.attentions.0.{part}", width, width)
        resnet(f"{name}.resnets.1", width, width)

    conv("encoder.conv_in", 3, c[0])
    for i, (inputs, outputs) in enumerate(zip((c[0], *c), c, strict=False)):
        block = f"encoder.down_blocks.{i}"
        for j in range(pack.resnets):
            resnet(f"{block}.resnets.{j}", inputs if j == 0 else outputs, outputs)
        if i < 3:
            conv(f"{block}.downsamplers.0.conv", outputs, outputs, (3 if i else 1, 3, 3))
    middle("encoder.mid_block", c[-1])
    made.norm("encoder.conv_norm_out", c[-1], bias=True)
    conv("encoder.conv_out", c[-1], 32)

    conv("decoder.conv_in", 16, c[-1])
    middle("decoder.mid_block", c[-1])
    for i, (inputs, outputs) in enumerate(zip((c[-1], *c[::-1]), c[::-1], strict=False)):
        block = f"decoder.up_blocks.{i}"
        for j in range(pack.resnets + 1):
            resnet(f"{block}.resnets.{j}", inputs if j == 0 else outputs, outputs)
        if i < 3:
            conv(f"{block}.upsamplers.0.upscale_conv", outputs, (8, 8, 4)[i] * outputs, (1, 1, 1))
            conv(f"{block}.upsamplers.0.conv", outputs, outputs)
    made.norm("decoder.conv_norm_out", c[0], bias=True)
    conv("decoder.conv_out", c[0], 3)
    return made.tensors


def save(folder, case, weights=None, **arrays):
    """``case.json``, the weights, and one file for each of ``arrays`` (name: dict)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
    if weights is not None:
        save_file(weights, folder / "weights.safetensors")
    for name, case in arrays.items():
        np.savez_compressed(folder / f"{name}.npz", **case)


def float32(x):
    return np.asarray(x, np.float32)


def rows(latent):
    return float32(latent.reshape(-1, latent.shape[-1]))


def dit_case(pack, dit, shapes, lengths, inner, rng):
    """Inputs and velocities of samples that each run alone, all samples' rows end to end."""
    latents, texts, outs, found = [], [], [], {}
    timesteps = rng.choice([1000.0, 750.0, 31.0], len(shapes))
    for shape, length, timestep in zip(shapes, lengths, timesteps, strict=True):
        latent = rng.choice(LEVELS, (*shape, 33))
        latent[..., 32] = 1
        text = rng.choice(LEVELS, (length, pack.text_width))
        out, found = dit(latent, text, timestep, np.ones(token_grid(shape), bool))
        latents.append(latent.reshape(-1, 33))
        texts.append(text)
        outs.append(rows(out))
    case = {
        "vid": np.concatenate(latents), "txt": np.concatenate(texts),
        "vid_shape": np.array(shapes), "txt_shape": np.array(lengths)[:, None],
        "timestep": float32(timesteps), "vid_sample": np.concatenate(outs),
    }  # fmt: skip
    if inner:
        case |= {k: rows(x) if x.ndim > 1 else float32(x[None]) for k, x in found.items()}
    return case


def token_grid(shape):
    return shape[0], shape[1] // 2, shape[2] // 2


def skip_case(dit, case, fractions, rng):
    """F: the inputs of ``case``, with masks that skip these fractions and one empty window."""
    shape = tuple(case["vid_shape"][0].tolist())
    made = {}
    for fraction in fractions:
        skip = rng.random(token_grid(shape)) < fraction
        skip[0, 0, 0] = False
        first = reference.windows(skip.shape, shifted=False)[-1]
        skip[tuple(slice(*ends) for ends in first)] = True
        latent = case["vid"].reshape(*shape, -1)
        timestep = case["timestep"][0]
        out, _ = dit(latent, case["txt"], timestep, ~skip)
        name = f"p{round(100 * fraction)}"
        made[f"{name}__skip"] = skip
        made[f"{name}__pred"] = rows(out)
        kept = skip.repeat(2, axis=1).repeat(2, axis=2).reshape(-1, 1) == 0
        noisy, condition = (np.float64(case["vid"][:, part]) for part in (slice(16), slice(16, 32)))
        clean = noisy - float(timestep) / 1000 * rows(out)
        made[f"{name}__composed_x0"] = float32(np.where(kept, clean, condition))
    return made


def channels_first(x):
    return float32(np.moveaxis(x, -1, 0)[None])


def vae_case(vae, frames, height, width, inner, rng):
    x = rng.choice(LEVELS / 2, (frames, height, width, 3))
    mean, logvar, found = vae.encode(x)
    eps, z = (rng.choice(LEVELS, mean.shape) for _ in range(2))
    decoded, more = vae.decode(z)
    case = {
        "x": x, "mean": mean, "logvar": logvar, "eps": eps,
        "sample": mean + np.exp(logvar / 2) * eps, "z": z, "decoded": decoded,
    }  # fmt: skip
    case = {k: channels_first(v) for k, v in case.items()}
    case |= {k: case[k].astype(np.float16) for k in ("x", "eps", "z")}
    if inner:
        found |= more
        attended = found.pop("enc_mid_attn")
        for largest in ("enc_conv_in", "dec_up2", "dec_up3"):  # at the resolution of the pixels
            del found[largest]
        case |= {k: channels_first(v) for k, v in found.items()}
        case["enc_mid_attn"] = float32(np.moveaxis(attended, -1, 1))
    return case


def pipeline_case(pack, dit, vae, size, rng):
    """G: encode, one step from pure noise, decode."""
    x = rng.choice(LEVELS / 2, (*size, 3))
    text = rng.choice(LEVELS, (6, pack.text_width))
    mean, logvar, _ = vae.encode(x)
    eps, noise = (rng.choice(LEVELS, mean.shape) for _ in range(2))
    latent = (mean + np.exp(logvar / 2) * eps) * SCALING
    condition = np.concatenate([latent, np.ones((*latent.shape[:3], 1))], axis=-1)
    inputs = np.concatenate([noise, condition], axis=-1)
    velocity, _ = dit(inputs, text, 1000.0, np.ones(token_grid(latent.shape), bool))
    clean = noise - velocity
    video, _ = vae.decode(clean / SCALING)
    return {
        "x": np.moveaxis(x, -1, 0), "txt": text, "eps": eps, "noise": noise,
        "latent": float32(latent), "cond": float32(condition), "pred": rows(velocity),
        "x0": float32(clean), "video": channels_first(video)[0],
    }  # fmt: skip


def constructors(pack, gated):
    """What ``case.json`` says of a transformer."""
    case = {
        "vid_in_channels": 33, "vid_out_channels": 16, "vid_dim": pack.width,
        "txt_in_dim": pack.text_width, "txt_dim": pack.width, "emb_dim": 6 * pack.width,
        "heads": pack.heads, "head_dim": pack.head_dims[not gated], "expand_ratio": 4,
        "num_layers": pack.layers[not gated],
    }  # fmt: skip
    return case | ({"mm_layers": pack.mm_layers} if gated else {})


def write(folder, pack, seed=0):
    """The whole pack. The same numbers for the same seed."""
    rng = np.random.default_rng(seed)
    dits, cases = {}, {}
    for name, gated in (("A_dit_v2", True), ("B_dit", False)):
        weights = dit_weights(pack, gated, rng)
        dits[name] = reference.DiT(weights, pack.heads)
        cases[name] = {
            case: dit_case(pack, dits[name], shapes, lengths, i == 0, rng)
            for i, (case, (shapes, lengths)) in enumerate(pack.dit.items())
            if gated or i < pack.cases_of_b
        }
        save(folder / name, {"constructor": constructors(pack, gated)}, weights, **cases[name])
    dit = dits["A_dit_v2"]
    skips = {
        name: skip_case(dit, cases["A_dit_v2"][name], fractions, rng)
        for name, fractions in pack.masks.items()
    }
    save(folder / "F_skip", {"weights": "../A_dit_v2/weights.safetensors"}, **skips)

    weights = vae_weights(pack, rng)
    vae = reference.VAE(weights, pack.groups)
    clips = {
        f"f{f}_{h}x{w}": vae_case(vae, f, h, w, i == len(pack.clips) - 1, rng)
        for i, (f, h, w) in enumerate(pack.clips)
    }
    made = {
        "block_out_channels": pack.channels, "latent_channels": 16,
        "layers_per_block": pack.resnets, "norm_num_groups": pack.groups,
    }  # fmt: skip
    save(folder / "D_vae", {"constructor": made, "scaling_factor": SCALING}, weights, **clips)

    sources = {"dit": "../A_dit_v2/weights.safetensors", "vae": "../D_vae/weights.safetensors"}
    case = sources | {"steps": 1, "cfg_scale": 1.0, "scaling_factor": SCALING}
    runs = {name: pipeline_case(pack, dit, vae, s, rng) for name, s in pack.pipeline.items()}
    save(folder / "G_pipeline", case, **runs)

    (folder / "C_windows").mkdir(exist_ok=True)
    grids = [
        {"grid": grid, "window": (4, 3, 3)}
        | {
            name: [[*t, *r, *q] for t, r, q in reference.windows(grid, shifted)]
            for shifted, name in enumerate(("regular", "shifted"))
        }
        for grid in pack.grids
    ]
    (folder / "C_windows/windows.json").write_text(json.dumps({"grids": grids}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--pack", choices=PACKS, default="small")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.folder, PACKS[options.pack], options.seed)
