"""Measures speed and memory of the autoencoder, slice by slice as inference runs it.

    python -m benchmarks.vae --out=vae.json
    python -m benchmarks.vae --model=tiny --height=64 --width=64 --frames=1,5
    python -m benchmarks.vae --coder=light --channels=96,192,384 --slice_latents=5

It encodes and decodes whole clips of random frames with random parameters, both made on the device.
It reports the measured peak memory and the one that ``skipsr_jax.models.vae.memory`` estimates for
every slice but the first. The convolution ceiling is the speed of one 3 x 3 x 3 convolution at the
size of the frames, measured in the same run.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from absl import flags
from jax import Array

from benchmarks.measure import (
    conv_ceiling,
    device_facts,
    format_table,
    median_seconds,
    peak_gib,
    run_program,
    write_json,
)
from benchmarks.models import abstract_light_coder, abstract_vae, first_device, random_parameters
from skipsr_jax.commandline import parse_flags
from skipsr_jax.geometry import SPACE_FACTOR
from skipsr_jax.models import light_coder
from skipsr_jax.models.light_coder import LightCoder
from skipsr_jax.models.vae import SEEDVR, TINY, VAE
from skipsr_jax.models.vae.memory import estimate_memory
from skipsr_jax.models.vae.slices import (
    decode_clip,
    decode_step,
    encode_clip,
    encode_step,
    frame_slices,
    latent_slices,
)

MODELS = {"seedvr": SEEDVR, "tiny": TINY}
LIGHT_CODERS = {"seedvr": light_coder.SEEDVR, "tiny": light_coder.TINY}


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "The autoencoder."
    flags.DEFINE_enum("model", "seedvr", sorted(MODELS), text, flag_values=values)
    flags.DEFINE_enum("coder", "full", ["full", "light"], "Full or light.", flag_values=values)
    text = (
        "Of the light coder: channels at 1/2, 1/4 and 1/8 of the resolution; default: the model's."
    )
    flags.DEFINE_list("channels", [], text, flag_values=values)
    flags.DEFINE_integer("height", 720, "Pixels, a multiple of 16.", flag_values=values)
    flags.DEFINE_integer("width", 1280, "Pixels, a multiple of 16.", flag_values=values)
    flags.DEFINE_list("frames", ["1", "21", "101"], "Clip lengths, 4k + 1.", flag_values=values)
    flags.DEFINE_integer("slice_latents", 1, "Latent frames of a slice.", flag_values=values)
    text = "Number of spatial tiles of a frame, a divisor of height / 8."
    flags.DEFINE_integer("tiles", 1, text, flag_values=values)
    flags.DEFINE_string("dtype", "bfloat16", "Of parameters and convolutions.", flag_values=values)
    flags.DEFINE_integer("repeats", 3, "Timed runs of each.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def make(name: str, dtype: jnp.dtype) -> tuple[VAE, dict]:
    """The autoencoder as shapes, and random parameters on the first device."""
    module = abstract_vae(MODELS[name], dtype)
    return module, random_parameters(module, first_device())


def make_light(name: str, dtype: jnp.dtype, channels: Sequence[str]) -> tuple[LightCoder, dict]:
    """The light coder as shapes, of these channels if any, and random parameters."""
    config = LIGHT_CODERS[name]
    if channels:
        widths = tuple(map(int, channels))
        config = dataclasses.replace(config, encoder_channels=widths, decoder_channels=widths)
    module = abstract_light_coder(config, dtype)
    return module, random_parameters(module, first_device())


def noise(shape: Sequence[int]) -> Array:
    """Normal random numbers in float32, of mean 0 and standard deviation 0.3."""
    return 0.3 * jax.random.normal(jax.random.key(0), tuple(shape), jnp.float32)


def measure(module: VAE | LightCoder, params: dict, frames: int, values: flags.FlagValues) -> dict:
    """Measures encoding and decoding a clip of ``frames`` frames: seconds and peak memory."""
    height, width, per_slice = values.height, values.width, values.slice_latents
    latents = latent_slices(1 + (frames - 1) // 4, per_slice)
    pixels = frame_slices(frames, per_slice)
    inputs = {length: noise((1, length, height, width, 3)) for length in set(pixels)}
    grid = (height // SPACE_FACTOR, width // SPACE_FACTOR, module.config.latent_channels)
    codes = {length: noise((1, length, *grid)) for length in set(latents)}
    encode, decode = encode_step(module, values.tiles), decode_step(module, values.tiles)

    def run_encode() -> list:
        return list(encode_clip(encode, params, (inputs[n] for n in pixels)))

    def run_decode() -> Array:
        base = (inputs[n] for n in pixels) if module.adds_to_upscaled else None
        last = None
        for last in decode_clip(decode, params, (codes[n] for n in latents), base):
            jax.block_until_ready(last)  # frames leave the device slice by slice
        return last

    row = {"frames": frames}
    for name, run in (("encode", run_encode), ("decode", run_decode)):
        row[f"{name}_seconds"] = median_seconds(run, values.repeats)
        row[f"{name}_peak_gib"] = peak_gib()
    return row


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    dtype, estimated = jnp.dtype(values.dtype), None
    if values.coder == "light":
        module, params = make_light(values.model, dtype, values.channels)
    else:
        module, params = make(values.model, dtype)
        estimate = estimate_memory(module, values.height, values.width, values.slice_latents)
        estimated = estimate.by_tiles.get(values.tiles)
    widest = (4, values.height, values.width, MODELS[values.model].block_channels[0])
    ceiling = conv_ceiling(widest, dtype)
    rows = []
    for frames in map(int, values.frames):
        rows.append(measure(module, params, frames, values))
        print(rows[-1], flush=True)
    facts = device_facts() | {
        "size": [values.height, values.width],
        "coder": values.coder,
        "config": dataclasses.asdict(module.config),
        "slice": values.slice_latents,
        "tiles": values.tiles,
        "estimated_gib": None if estimated is None else estimated / 2**30,
    }
    print(f"{facts['device']}, {values.model} {values.width}x{values.height}, {values.dtype}")
    print(f"convolution ceiling {ceiling:.0f} TFLOP/s")
    if estimated is not None:
        print(f"estimated peak of later slices {estimated / 2**30:.2f} GiB")
    print(format_table(rows))
    if values.out:
        content = facts | {"argv": list(itertools.islice(argv, 1, None)), "rows": rows}
        write_json(values.out, content | {"conv_ceiling_tflops": ceiling})
    return 0


if __name__ == "__main__":
    run_program("vae", main)
