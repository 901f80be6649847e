"""Counts parameters and operations of model sizes, and measures seconds of their parts.

    python -m benchmarks.sizes
    python -m benchmarks.sizes --measure --clip=5x576x704 --skip=0.5 --out=sizes.json

A transformer is WIDTHxLAYERS, of the tiny model's kind. A light coder is the width of its decoder
at half resolution, which doubles at 1/4 and again at 1/8; its encoder has two thirds of that. An
autoencoder is the width of its level at full resolution. Both also take the name of a preset, such
as ``small``. The parts are listed one by one, because their costs add up. Operations are those of
--clip; the transformer leaves out the fraction --skip of the patches, the coders run on all pixels.
``of_tiny`` is the ratio to the operations of the tiny model's part. --measure adds seconds on the
first device of this machine, in --dtype, with random parameters and without compilation.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from benchmarks.masks import clip_masks
from benchmarks.measure import clip_size, format_table, median_seconds, run_program, write_json
from benchmarks.models import (
    abstract_dit,
    abstract_light_coder,
    abstract_vae,
    first_device,
    plan_for,
    random_inputs,
    random_parameters,
)
from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import SPACE_FACTOR, latent_count, token_grid
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.dit.config import TINY
from skipsr_jax.models.flops import dit_flops, vae_flops
from skipsr_jax.models.light_coder import LightCoder, LightCoderConfig
from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.models.presets import LIGHT_CODER_PRESETS, VAE_PRESETS
from skipsr_jax.models.vae import VAE, VAEConfig
from skipsr_jax.types import DTYPES

_HEAD_DIMS = (48, 64)
"""Channels of a head: the first that divides the width."""

Clip = tuple[int, int, int]


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    grid = "192x4,192x10,256x6,256x8,320x6,320x8,384x6,384x8,448x6"
    flags.DEFINE_list("dits", grid.split(","), "Transformers.", flag_values=values)
    flags.DEFINE_list(
        "coders", ["24", "32", "40", "48", "64", "small"], "Light coders.", flag_values=values
    )
    flags.DEFINE_list("vaes", ["16", "24", "32"], "Autoencoders.", flag_values=values)
    text = "frames x height x width at the target size."
    flags.DEFINE_string("clip", "101x720x1280", text, flag_values=values)
    text = "Fraction of the patches that the transformer leaves out."
    flags.DEFINE_float("skip", 0.4, text, 0.0, 1.0, flag_values=values)
    flags.DEFINE_bool("measure", False, "Also measure seconds.", flag_values=values)
    flags.DEFINE_enum("dtype", "float32", DTYPES, "Of what is measured.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def dit_config(name: str) -> DiTConfig:
    """The transformer of ``WIDTHxLAYERS``. Raises UserError for another form or width."""
    try:
        width, layers = map(int, name.split("x"))
        head_dim = next(size for size in _HEAD_DIMS if width % size == 0)
    except (ValueError, StopIteration) as error:
        raise UserError(
            f"--dits: {name} is not WIDTHxLAYERS with a width of whole heads of "
            f"{' or '.join(map(str, _HEAD_DIMS))} channels, such as 256x6"
        ) from error
    heads = width // head_dim
    return dataclasses.replace(
        TINY, width=width, layers=layers, heads=heads, head_dim=head_dim, rope_dim=head_dim
    )


def light_config(width: int) -> LightCoderConfig:
    """The light coder whose decoder has ``width`` channels at half resolution."""
    blocks = LIGHT_CODER_PRESETS["tiny"]
    decoder = (width, 2 * width, 4 * width)
    encoder = tuple(2 * channels // 3 // 8 * 8 for channels in decoder)
    return dataclasses.replace(blocks, decoder_channels=decoder, encoder_channels=encoder)


def vae_config(width: int) -> VAEConfig:
    """The autoencoder with ``width`` channels at full resolution."""
    channels = (width, 2 * width, 4 * width, 4 * width)
    return dataclasses.replace(VAE_PRESETS["tiny"], block_channels=channels)


def parameters(module: nnx.Module) -> int:
    """How many parameters a network has."""
    return sum(leaf.size for leaf in jax.tree.leaves(to_dict(module)))


def _sizes(name: str, module: nnx.Module) -> dict[str, Any]:
    count = parameters(module)
    return {"part": name, "params_m": round(count / 1e6, 2), "mb_bf16": round(2 * count / 1e6, 1)}


def dit_row(config: DiTConfig, clip: Clip, skip: float, dtype: Any, measure: bool) -> dict:
    """Parameters, TFLOP and maybe seconds of one call of a transformer."""
    keep = clip_masks(token_grid(*clip), skip, None)["blobs"]
    plan = plan_for(keep)
    module = abstract_dit(config, dtype)
    row = _sizes(f"dit {config.width}x{config.layers}", module)
    row["tflop"] = dit_flops(config, plan).total / 1e12
    if measure:
        params, step = random_parameters(module, first_device()), velocity_step(module)
        inputs = jax.device_put(random_inputs(config, plan, dtype))
        row["seconds"] = median_seconds(lambda: step(params, *inputs), 3)
    return row


def coder_rows(
    name: str, module: VAE | LightCoder, clip: Clip, dtype: Any, measure: bool
) -> Iterator[dict]:
    """Parameters, TFLOP and maybe seconds of a coder's encoder and of its decoder."""
    frames, height, width = clip
    flops = dict(zip(("encoder", "decoder"), vae_flops(module, (1, *clip)), strict=True))
    params = random_parameters(module, first_device()) if measure else None
    pixels = jnp.zeros((1, frames, height, width, 3), dtype)
    latent = (latent_count(frames), height // SPACE_FACTOR, width // SPACE_FACTOR)
    z = jnp.zeros((1, *latent, module.config.latent_channels), dtype)
    runs = {
        "encoder": jax.jit(lambda p, x, z: bind(module, p).encode(x)[0].mean),
        "decoder": jax.jit(lambda p, x, z: bind(module, p).decode(z, None, x)[0]),
    }
    for part, run in runs.items():
        row = _sizes(f"{name} {part}", getattr(module, part)) | {"tflop": flops[part] / 1e12}
        if measure:
            row["seconds"] = median_seconds(lambda run=run: run(params, pixels, z), 3)
        yield row


def rows_of(values: flags.FlagValues) -> Iterator[dict[str, Any]]:
    """Yields the rows of all sizes, the tiny model's first in each kind."""
    clip, dtype, measure = clip_size(values.clip, "--clip"), np.dtype(values.dtype), values.measure

    def with_ratio(rows: Iterator[dict], first: Sequence[dict]) -> Iterator[dict]:
        for row in rows:
            like = first[["encoder", "decoder"].index(row["part"].split()[-1])]
            yield row | {"of_tiny": row["tflop"] / like["tflop"]}

    tiny = dit_row(TINY, clip, values.skip, dtype, False)
    for name in values.dits:
        row = dit_row(dit_config(name), clip, values.skip, dtype, measure)
        yield row | {"of_tiny": row["tflop"] / tiny["tflop"]}
    kinds = (
        ("light coder", values.coders, light_config, abstract_light_coder, LIGHT_CODER_PRESETS),
        ("autoencoder", values.vaes, vae_config, abstract_vae, VAE_PRESETS),
    )
    for kind, widths, config, abstract, presets in kinds:
        first = list(coder_rows("tiny", abstract(presets["tiny"], dtype), clip, dtype, False))
        for width in widths:
            named = presets[width] if width in presets else config(int(width))
            module = abstract(named, dtype)
            rows = coder_rows(f"{kind} {width}", module, clip, dtype, measure)
            yield from with_ratio(rows, first)


def main(argv: Sequence[str]) -> int:
    """Prints a row for each part as it is ready, then the table, and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    rows = []
    for row in rows_of(values):
        rows.append(row)
        print(" ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    print(format_table(rows))
    if values.out:
        write_json(values.out, {"argv": list(argv)[1:], "rows": rows})
    return 0


if __name__ == "__main__":
    run_program("sizes", main)
