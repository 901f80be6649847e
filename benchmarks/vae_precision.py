"""Measures what bfloat16 and fp8 convolutions of the full autoencoder cost, against float32.

    python -m benchmarks.vae_precision --model=seedvr2_3b --clip=9x256x256
    python -m benchmarks.vae_precision --checkpoint=CHECKPOINT --clip=9x256x256
    python -m benchmarks.vae_precision --channels=128,128,128,128 --clip=5x64x64
    python -m benchmarks.vae_precision --checkpoint=checkpoints/tiny --every_width --folder=FOLDER

The parameters are those of a checkpoint or random ones: kernels with the deviation of their fan-in,
norms near 1 and 0. Frames are smooth random pictures in [-1, 1], latents the float32 encoder's
means. Errors are norms of differences divided by the norm of the float32 result, of the latent and
of the decoded frames; ``psnr`` is that of the frames in dB. All blocks are active where rows are
``sparse``. The program runs on any device: one without the kernel for fp8 computes the same
products in float32 arithmetic.

With --every_width all 3 x 3 x 3 convolutions of the resnets are in fp8, so that a trained model
whose layers are narrower than the kernel takes them shows what the rounding costs.

With --folder there are rows of upscaled clips, too: of true clips, downsampled 4x by area averaging
and upscaled by the checkpoint without skipping, in float32. ``float32`` is their PSNR against the
truth in dB, and the other columns are what it changes by with the convolutions of the encoder, of
the decoder or of both in fp8.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from benchmarks.measure import clip_size, device_facts, format_table, run_program, write_json
from benchmarks.models import abstract_vae
from skipsr_jax.checkpoints import store
from skipsr_jax.commandline import parse_flags, read_config
from skipsr_jax.config import from_json
from skipsr_jax.data.degradation.degrade import low_quality
from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.model_run import upscaled
from skipsr_jax.evaluation.quality import scores
from skipsr_jax.evaluation.true_clips import read_truth
from skipsr_jax.geometry import PATCH_PIXELS
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.programs import Programs
from skipsr_jax.inference.settings import Mask, Settings, from_config
from skipsr_jax.kernels.quantized import FORMATS
from skipsr_jax.media.inputs import list_inputs
from skipsr_jax.media.reader import open_media
from skipsr_jax.models.layers.causal_conv import CausalConv3d, QuantizedCausalConv3d
from skipsr_jax.models.params import Params, abstract, flatten, to_dict, unflatten
from skipsr_jax.models.presets import VAE_PRESETS
from skipsr_jax.models.quantized_params import quantize_params
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.models.vae.blocks import Resnet
from skipsr_jax.models.vae.slices import (
    decode_clip,
    decode_step,
    encode_clip,
    encode_step,
    frame_slices,
)
from skipsr_jax.models.vae.sparse_decode import decode_sparse_clip, sparse_decode_step
from skipsr_jax.models.vae.sparse_encode import encode_sparse_clip, sparse_encode_step
from skipsr_jax.resources import find_checkpoint
from skipsr_jax.tokens.blocks import plan_blocks
from skipsr_jax.types import Float, HostArray

_PEAK = 2.0  # of frames in [-1, 1]
_FRAMES, _SCALE = 5, 4  # of each upscaled clip, and how many times smaller its input is
_QUANTIZED = {
    "float32": (),
    "fp8 encoder": ("encoder",),
    "fp8 decoder": ("decoder",),
    "fp8 both": ("encoder", "decoder"),
}
"""The parts whose convolutions are in fp8, of each column of upscaled clips."""


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "Preset with random parameters; not with --checkpoint."
    flags.DEFINE_enum("model", "seedvr2_3b", sorted(VAE_PRESETS), text, flag_values=values)
    flags.DEFINE_string("checkpoint", None, "Take its parameters.", flag_values=values)
    text = "Channels of the preset's levels in place of its own."
    flags.DEFINE_list("channels", None, text, flag_values=values)
    text = "frames (4 k + 1) x height x width (multiples of 16)."
    flags.DEFINE_string("clip", "9x256x256", text, flag_values=values)
    text = "Round in layers of any number of channels."
    flags.DEFINE_bool("every_width", False, text, flag_values=values)
    text = "True clips to upscale with --checkpoint."
    flags.DEFINE_string("folder", None, text, flag_values=values)
    text = "Least pixels on a side of a true clip; smaller files are inputs without a truth."
    flags.DEFINE_integer("smallest", 400, text, flag_values=values)
    text = "How it upscales; its checkpoint is --checkpoint."
    flags.DEFINE_string("config", "tiny", text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def parameters(values: flags.FlagValues) -> tuple[VAEConfig, Params]:
    """The autoencoder's sizes and its parameters in float32.

    Raises UserError when the checkpoint has no autoencoder.
    """
    if values.checkpoint is not None:
        source = find_checkpoint(values.checkpoint)
        config = store.load_config(source)
        if "vae" not in config:
            raise UserError(f"{source}: has no autoencoder")
        read = store.restore_params(source, only=("vae",), dtype="float32")
        return from_json(VAEConfig, config["vae"], source), read["vae"]
    config = VAE_PRESETS[values.model]
    if values.channels:
        config = dataclasses.replace(config, block_channels=tuple(map(int, values.channels)))
    rng = np.random.default_rng(0)

    def draw(path: str, leaf: Any) -> HostArray:
        numbers = rng.standard_normal(leaf.shape, np.float32)
        if path.endswith("kernel"):
            return numbers * np.prod(leaf.shape[:-1]) ** -0.5
        return 0.2 * numbers + (1 if path.endswith("scale") else 0)

    shapes = flatten(to_dict(abstract_vae(config, "float32")))
    return config, unflatten({path: draw(path, leaf) for path, leaf in shapes.items()})


def quantized_vae(
    config: VAEConfig,
    dtype: Any,
    every_width: bool,
    parts: Sequence[str] = ("encoder", "decoder"),
) -> VAE:
    """The autoencoder as shapes with the resnets' 3 x 3 x 3 convolutions of ``parts`` in fp8.

    ``every_width``: all of them, else those whose channels the kernel for GPUs takes.
    """
    vae, plain = abstract_vae(config, dtype, format=FORMATS["fp8"]), abstract_vae(config, dtype)
    for part in ("encoder", "decoder"):
        if part not in parts:
            setattr(vae, part, getattr(plain, part))
    kinds = {"format": vae.format, "dtype": vae.dtype, "param_dtype": vae.dtype}

    def quantized(conv: nnx.Module) -> nnx.Module:
        if not isinstance(conv, CausalConv3d):
            return conv
        channels = conv.kernel.shape[3:]
        return abstract(lambda rngs: QuantizedCausalConv3d(*channels, rngs=rngs, **kinds))

    for part in parts if every_width else ():
        for _, module in nnx.iter_modules(getattr(vae, part)):
            if isinstance(module, Resnet):
                module.conv1, module.conv2 = quantized(module.conv1), quantized(module.conv2)
    return vae


def smooth_frames(count: int, height: int, width: int) -> Float[HostArray, "1 f h w 3"]:
    """Sums of a few waves that move, in [-1, 1]."""
    rng, time = np.random.default_rng(1), np.arange(count)[:, None, None, None]
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[:, None]
    waves = 0.0
    for _ in range(8):
        speed, *along = rng.normal(size=3) * (0.3, 0.15, 0.15)
        phase = rng.uniform(0, 2 * np.pi, 3)
        waves = waves + np.sin(speed * time + along[0] * rows + along[1] * columns + phase)
    return (waves / 8).astype(np.float32)[None]


def results(
    vae: VAE, params: Params, slices: Sequence[HostArray], latent: Any, sparse: bool
) -> tuple[HostArray, HostArray]:
    """Means of the latent, and the frames that are decoded from ``latent`` (None: these means)."""
    _, _, height, width, _ = slices[0].shape
    grid = (len(slices), height // PATCH_PIXELS, width // PATCH_PIXELS)
    plan = plan_blocks(np.ones(grid, bool), grid[1] * grid[2])
    if sparse:
        encoded = encode_sparse_clip(sparse_encode_step(vae), params, slices, plan)
    else:
        encoded = encode_clip(encode_step(vae), params, slices)
    means = np.concatenate([np.asarray(part.mean) for part in encoded], axis=1)
    parts = jnp.split(jnp.asarray(means if latent is None else latent), len(slices), axis=1)
    if sparse:
        decoded = decode_sparse_clip(sparse_decode_step(vae), params, parts, slices, plan)
    else:
        upscaled = slices if vae.adds_to_upscaled else None
        decoded = decode_clip(decode_step(vae), params, parts, upscaled)
    return means, np.concatenate([np.asarray(part) for part in decoded], axis=1)


def rows_of(values: flags.FlagValues) -> list[dict[str, Any]]:
    """A row for each precision, dense and sparse: its errors."""
    count, height, width = clip_size(values.clip)
    if height % PATCH_PIXELS or width % PATCH_PIXELS:
        raise UserError(f"--clip={values.clip}: sides are multiples of {PATCH_PIXELS}")
    config, params = parameters(values)
    frames = smooth_frames(count, height, width)
    slices = np.split(frames, np.cumsum(frame_slices(count))[:-1], axis=1)
    params = jax.device_put(params)
    with jax.default_matmul_precision("highest"):
        exact = results(abstract_vae(config, "float32"), params, slices, None, sparse=False)
    rows = []
    for precision in ("bf16", "fp8"):
        vae = abstract_vae(config, "bfloat16")
        if precision == "fp8":
            vae = quantized_vae(config, "bfloat16", values.every_width)
        made = jax.tree.map(lambda x: jnp.array(x, jnp.bfloat16), params)
        if vae.format is not None:
            made = quantize_params(made, to_dict(vae), vae.format)
        for coding in ("dense", "sparse"):
            found = results(vae, made, slices, exact[0], coding == "sparse")
            errors = [
                float(np.linalg.norm(a - b) / np.linalg.norm(b))
                for a, b in zip(found, exact, strict=True)
            ]
            mean_square = float(np.mean(np.square(found[1] - exact[1])))
            psnr = 10 * np.log10(_PEAK**2 / mean_square)
            row = {"convolutions": precision, "coding": coding}
            rows.append(row | {"latent": errors[0], "frames": errors[1], "psnr": float(psnr)})
            print(format_table(rows[-1:]), flush=True)
    return rows


def programs_of(parts: Sequence[str], settings: Settings, every_width: bool) -> Programs:
    """The programs of a run with the convolutions of ``parts`` of the full coder in fp8."""
    model = load_model(settings.checkpoint, settings.dtype, settings.mask, coder=settings.coder)
    if parts:
        model.coder = quantized_vae(model.coder.config, model.coder.dtype, every_width, parts)
        shapes = to_dict(model.coder)
        model.params["coder"] = quantize_params(model.params["coder"], shapes, FORMATS["fp8"])
    return Programs(model)


def upscaled_rows(values: flags.FlagValues) -> list[dict[str, Any]]:
    """A row for each true clip, and the means: PSNR in dB, and its changes with fp8."""
    settings = dataclasses.replace(
        from_config(read_config(values.config)),
        checkpoint=values.checkpoint, dtype="float32", coder="full", mask=Mask(source="none"),
        encode="dense", decode="dense",
    )  # fmt: skip
    programs = {
        name: programs_of(parts, settings, values.every_width) for name, parts in _QUANTIZED.items()
    }
    rows = []
    for path in list_inputs(values.folder, folder="files"):
        media = open_media(path)
        if min(media.height, media.width) < values.smallest:
            continue
        truth = read_truth(path, _FRAMES, _SCALE)
        if len(truth) < _FRAMES:
            continue
        low, target = low_quality(truth, _SCALE), truth.shape[1:3]
        found = {
            name: scores(upscaled(low, target, each, settings)[0], truth)["psnr"]
            for name, each in programs.items()
        }
        exact = found["float32"]
        changes = {name: psnr - exact for name, psnr in found.items() if name != "float32"}
        rows.append({"clip": path.name, "float32": exact, **changes})
        print(format_table(rows[-1:]), flush=True)
    if not rows:
        raise UserError(f"--folder={values.folder}: no clip of {_FRAMES} frames")
    means = {name: float(np.mean([row[name] for row in rows])) for name in _QUANTIZED}
    return [*rows, {"clip": "mean", **means}]


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as tables and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    if values.folder and not values.checkpoint:
        raise UserError("--folder: clips are upscaled by a trained model: name its --checkpoint")
    rows = rows_of(values)
    print(format_table(rows))
    found = device_facts() | {"argv": list(argv)[1:], "rows": rows}
    if values.folder:
        found["upscaled"] = upscaled_rows(values)
        print(format_table(found["upscaled"]))
    if values.out:
        write_json(values.out, found)
    return 0


if __name__ == "__main__":
    run_program("vae_precision", main)
