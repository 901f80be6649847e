"""Measures speed and memory of one training step of stage ``sr``, with and without skipped tokens.

    python -m benchmarks.train_step --skip=0.4 --out=train_step.json
    python -m benchmarks.train_step --model=tiny --frames=5 --height=64 --width=64 --dtype=float32
    JAX_PLATFORMS=cpu python -m benchmarks.train_step --compile_only
    python -m benchmarks.train_step --adapter_rank=16 --frames=17 --include_vae
    XLA_FLAGS=--xla_gpu_enable_command_buffer= python -m benchmarks.train_step --profile

Parameters and data are random and made on the device. Parameters, averages and Adam moments are
float32, products are in --dtype, blocks are rematerialised as --remat says. The masks are connected
blobs, and each step has the bucket that its kept tokens need. A batch holds latents; with
--include_vae it holds frames, and the step encodes clip and input with the frozen autoencoder. MFU
is the model FLOPs utilisation (skipsr_jax.models.flops). With --adapter_rank an adapter (LoRA) is
trained, and the transformer is frozen, with kernels stored as --adapter_precision says. With
--profile a table says how many milliseconds of a step each part takes, forward, recomputed and
backward (``benchmarks.kernel_times``).

``peak_gib`` is the most memory that the device has used since the process began. The skipped step
runs first, so that its number is its own, and the later one that of the dense step.
``arguments_gib`` and ``temporaries_gib`` are what the compiler plans; the state is updated in
place.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from benchmarks.kernel_times import kernel_rows
from benchmarks.masks import blob_mask
from benchmarks.measure import (
    device_facts,
    format_table,
    median_seconds,
    peak_gib,
    run_program,
    write_json,
)
from benchmarks.models import TEXT_TOKENS, abstract_base, abstract_vae
from skipsr_jax.commandline import parse_flags
from skipsr_jax.data.batch import Batch
from skipsr_jax.data.crops import ClipShape
from skipsr_jax.kernels.quantized import PRECISIONS
from skipsr_jax.models.adapter import Adapter
from skipsr_jax.models.dit import REMAT_POLICIES
from skipsr_jax.models.flops import BACKWARD, BACKWARD_FROZEN, dit_flops, vae_flops
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.models.params import count, nbytes, to_dict
from skipsr_jax.models.presets import DIT_PRESETS, VAE_PRESETS
from skipsr_jax.models.vae import VAE
from skipsr_jax.parallel.device_peaks import peak_flops
from skipsr_jax.tokens.plan import build_plan, stack_plans
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stage import Stage
from skipsr_jax.training.stages import sr
from skipsr_jax.training.step import fresh_state, make_step
from skipsr_jax.types import DTYPES

RATE = np.float32(1e-5)
SCOPES = (
    "embed", "modulation", "qkv", "qk_norm", "rope", "to_windows", "attention", "from_windows",
    "proj_out", "mlp", "out", "mm_blocks", "shared_blocks", "optimizer", "moving_average",
)  # fmt: skip
"""Parts of a step, as a profile names them."""


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "The transformer."
    flags.DEFINE_enum("model", "seedvr2_3b", sorted(DIT_PRESETS), text, flag_values=values)
    flags.DEFINE_integer("frames", 21, "Frames of a clip, 4k + 1.", flag_values=values)
    flags.DEFINE_integer("height", 720, "Pixels, a multiple of 16.", flag_values=values)
    flags.DEFINE_integer("width", 1280, "Pixels, a multiple of 16.", flag_values=values)
    flags.DEFINE_integer("packs", 1, "Packs in a batch, of one clip each.", flag_values=values)
    flags.DEFINE_float("skip", 0.4, "Fraction of tokens that the masks skip.", flag_values=values)
    flags.DEFINE_integer("steps", 5, "Timed steps of each.", flag_values=values)
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of products.", flag_values=values)
    text = "What is stored for the backward pass."
    flags.DEFINE_enum("remat", "full", list(REMAT_POLICIES), text, flag_values=values)
    text = "Of the adapter that is trained; 0: the whole transformer is."
    flags.DEFINE_integer("adapter_rank", 0, text, flag_values=values)
    text = "What numbers the frozen kernels are stored as."
    flags.DEFINE_enum("adapter_precision", "bf16", PRECISIONS, text, flag_values=values)
    text = "Encode clip and input with the frozen autoencoder in the step."
    flags.DEFINE_bool("include_vae", False, text, flag_values=values)
    text = "Print the time of each part of a step."
    flags.DEFINE_bool("profile", False, text, flag_values=values)
    text = "Compile for this device and report the planned memory; run nothing."
    flags.DEFINE_bool("compile_only", False, text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def make_stage(values: flags.FlagValues) -> tuple[Stage, VAE]:
    """Stage ``sr`` for random parameters, and its autoencoder as shapes."""
    dtype = jnp.dtype(values.dtype)
    vae = abstract_vae(VAE_PRESETS[values.model], dtype, jnp.float32)
    adapter = Adapter(values.adapter_rank, precision=values.adapter_precision)
    texts = (TEXT_TOKENS, TEXT_TOKENS)
    weight = sr.SrLoss(pixel_weight=0.0, train_text=not adapter.rank, text_lengths=texts)
    crop = values.height, values.width
    settings = Settings(
        stage="sr",
        data=Data(root=("",), batch=values.packs, frames=values.frames, crop=crop),
        optimizer=Optimizer(float(RATE)),
        loop=Loop(1),
        loss=weight,
        model=values.model,
        dtype=values.dtype,
        adapter=adapter,
    )
    config = dataclasses.replace(DIT_PRESETS[values.model], remat=values.remat)
    base = abstract_base(config, adapter, dtype, texts) if adapter.rank else None
    stage = sr.make(settings, config, (vae, {"vae": to_dict(vae)}), base)
    if values.include_vae:
        return stage, vae
    return dataclasses.replace(stage, prepare=None, frozen=base or {}), vae


def make_batch(values: flags.FlagValues, vae: VAE, skip: float) -> Batch:
    """A batch of random clips and of plans whose masks skip the fraction ``skip``, on the host."""
    shape = ClipShape(values.packs, values.frames, values.height, values.width)
    masks = [blob_mask(shape.grid, skip, seed) for seed in range(values.packs)]
    rng = np.random.default_rng(0)
    batch = Batch(
        plan=stack_plans([build_plan([mask], [TEXT_TOKENS]) for mask in masks]),
        negative=np.zeros((values.packs, 1), bool),
    )
    if not values.include_vae:
        t, r, q = shape.grid
        latents = (values.packs, t, 2 * r, 2 * q, vae.config.latent_channels)
        hr, lr = (rng.standard_normal(latents, np.float32) for _ in range(2))
        return batch._replace(hr_latents=(hr,), lr_latents=(lr,))
    size = (values.packs, values.frames, values.height, values.width, 3)
    small = (*size[:2], values.height // 4, values.width // 4, 3)
    hr, lr = (rng.integers(0, 256, x, np.uint8) for x in (size, small))
    return batch._replace(hr=(hr,), lr=(lr,))


def operations(values: flags.FlagValues, vae: VAE, batch: Batch) -> float:
    """Counts the model operations of a step."""
    backward = BACKWARD_FROZEN if values.adapter_rank else BACKWARD
    total = (1 + backward) * dit_flops(DIT_PRESETS[values.model], batch.plan).total
    if values.include_vae:
        total += 2 * vae_flops(vae, batch.hr[0].shape[:4])[0]
    return total


def measure(name: str, stage: Stage, vae: VAE, state: Any, frozen: Any, skip: float, values: Any):
    """Measures steps; returns a row and the state after them. ``state`` is donated."""
    batch = make_batch(values, vae, skip)
    flops, kept = operations(values, vae, batch), int(batch.plan.valid.sum())
    batch = jax.device_put(batch) if not values.compile_only else jax.eval_shape(lambda: batch)
    run, options = make_step(stage, Optimizer(float(RATE)), 0), convolution_options(fused=False)
    step = jax.jit(run, donate_argnums=0, compiler_options=options)
    compiled = step.lower(state, frozen, batch, RATE).compile()
    memory = compiled.memory_analysis()
    row = {
        "step": name,
        "tokens": kept,
        "tflop": flops / 1e12,
        "arguments_gib": memory.argument_size_in_bytes / 2**30,
        "temporaries_gib": memory.temp_size_in_bytes / 2**30,
    }
    if values.compile_only:
        return row, state

    def run() -> Any:
        nonlocal state
        state, metrics = compiled(state, frozen, batch, RATE)
        return metrics

    seconds = median_seconds(run, values.steps)
    peak = peak_flops(jax.devices()[0].device_kind)
    row |= {
        "seconds": seconds,
        "tokens_per_second": kept / seconds,
        "tflops_per_second": flops / seconds / 1e12,
        "mfu_percent": None if peak is None else 100 * flops / seconds / peak,
        "peak_gib": peak_gib(),
        "loss": float(run()["loss"]),
    }
    if not np.isfinite(row["loss"]):
        raise FloatingPointError(f"the loss of the {name} step is {row['loss']}")
    if values.profile:
        row["kernels"] = kernel_rows(compiled, run, values.steps, SCOPES)
    return row, state


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    stage, vae = make_stage(values)

    def start() -> Any:
        return fresh_state(stage, Optimizer(float(RATE)), jax.random.key(0))

    def constants() -> Any:
        """The frozen parameters: the autoencoder, and the transformer of an adapter."""
        real = VAE(vae.config, rngs=nnx.Rngs(1), dtype=jnp.dtype(values.dtype))
        rest = {name: part for name, part in stage.frozen.items() if name != "vae"}
        small = jax.tree.map(lambda x: jnp.full(x.shape, 0.01).astype(x.dtype), rest)
        return small | ({"vae": to_dict(real)} if values.include_vae else {})

    make = jax.eval_shape if values.compile_only else lambda build: jax.jit(build)()
    state, frozen = make(start), make(constants)
    facts = device_facts() | {
        "model": values.model,
        "parameters": count(jax.eval_shape(start)["params"]),
        "frozen_gib": nbytes(frozen) / 2**30,
        "adapter": [values.adapter_rank, values.adapter_precision],
        "clip": [values.packs, values.frames, values.height, values.width],
        "skip": values.skip,
        "dtype": values.dtype,
        "remat": values.remat,
        "include_vae": values.include_vae,
        "state_gib": nbytes(state) / 2**30,
        "peak_gib_after_start": peak_gib(),
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    rows, profiles = [], {}
    for name, skip in (("skipped", values.skip), ("dense", 0.0)):
        row, state = measure(name, stage, vae, state, frozen, skip, values)
        rows.append(row)
        kernels = row.pop("kernels", [])
        print(" ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        if kernels:
            profiles[name] = kernels
            print(format_table(kernels), flush=True)
    print(format_table(rows))
    if values.out:
        write_json(values.out, facts | {"argv": list(argv)[1:], "rows": rows, "profiles": profiles})
    return 0


if __name__ == "__main__":
    run_program("train_step", main)
