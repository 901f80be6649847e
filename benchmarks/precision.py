"""Measures what bfloat16, fp8 and int8 products cost in accuracy, against float32.

    python -m benchmarks.precision --model=seedvr2_3b --layers=1
    python -m benchmarks.precision --checkpoint=checkpoints/tiny --grid=5,11,20
    python -m benchmarks.precision --model=tiny --layers=2 --grid=2,4,6
    python -m benchmarks.precision --weights=GOLDEN/A_dit_v2/weights.safetensors --grid=3,8,10

The parameters are those of a checkpoint, of a file in the layout of the official weights (the
golden packs of the parity tests have small ones), or random ones of a preset, with its last layers
left out where --layers says so. All precisions run the same tokens, noise and text, which are
normal random numbers, dense or with a blob of tokens skipped. Everything outside quantised products
is in --dtype, as in a run. Errors are norms of differences over all kept tokens divided by the norm
of the float32 result: ``hidden`` of the residual stream after the last layer, ``update`` of the sum
of what the layers add to it, ``velocity`` of the model's result. They run on any device: one
without 8-bit matrix units computes the same products in float32 arithmetic.
"""

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.masks import blob_mask
from benchmarks.measure import device_facts, format_table, run_program, write_json
from benchmarks.models import (
    abstract_dit,
    first_device,
    plan_for,
    random_inputs,
    random_parameters,
)
from skipsr_jax.checkpoints import architecture, keys, safetensors_file, staging, store
from skipsr_jax.commandline import parse_flags
from skipsr_jax.config import from_json
from skipsr_jax.errors import UserError
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.kernels.quantized import PRECISIONS
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import Params, bind, to_dict, unflatten
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.models.quantized_params import quantize_params
from skipsr_jax.resources import find_checkpoint
from skipsr_jax.tokens.patches import join_channels
from skipsr_jax.types import DTYPES


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "Preset with random parameters; not with --checkpoint."
    flags.DEFINE_enum("model", "seedvr2_3b", sorted(DIT_PRESETS), text, flag_values=values)
    flags.DEFINE_string("checkpoint", None, "Take its parameters.", flag_values=values)
    text = "Take those of a transformer in the layout of the official weights (safetensors)."
    flags.DEFINE_string("weights", None, text, flag_values=values)
    text = "Layers of the preset that are kept; 0: all."
    flags.DEFINE_integer("layers", 0, text, lower_bound=0, flag_values=values)
    flags.DEFINE_list("grid", ["3", "12", "20"], "Tokens: time, rows, columns.", flag_values=values)
    flags.DEFINE_float("skip", 0.4, "Fraction of tokens that is skipped.", flag_values=values)
    text = "Of what is not quantised."
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def parameters(values: flags.FlagValues) -> tuple[DiTConfig, Params]:
    """The transformer's sizes and its parameters in float32.

    Raises UserError when the checkpoint has no transformer.
    """
    if values.checkpoint is not None and values.weights is not None:
        raise UserError("--checkpoint and --weights name two models: give one")
    if values.weights is not None:
        return of_official_layout(values.weights)
    if values.checkpoint is None:
        config = DIT_PRESETS[values.model]
        if values.layers:
            shared = max(0, config.layers - config.mm_layers)
            kept = min(values.layers, config.layers)
            config = dataclasses.replace(config, layers=kept, mm_layers=max(0, kept - shared))
        return config, random_parameters(abstract_dit(config, "float32"), first_device())
    source = find_checkpoint(values.checkpoint)
    stored = store.load_config(source)
    if "dit" not in stored or "precision" in stored:
        raise UserError(f"{source}: has no transformer with unquantised kernels")
    return from_json(DiTConfig, stored["dit"], source), store.restore_params(
        source, only=("dit",), dtype="float32"
    )["dit"]


def of_official_layout(path: str) -> tuple[DiTConfig, Params]:
    """``parameters`` of a safetensors file with the names of the official weights."""
    tensors = safetensors_file.read(path)
    config = architecture.dit_config(architecture.shapes_of(tensors), path)
    entries = keys.entries_of(config)
    if wrong := keys.mismatches(entries, tensors):
        raise UserError(f"{path}: {len(wrong)} tensors do not fit its sizes, e.g. {wrong[0]}")
    with tempfile.TemporaryDirectory() as folder:
        gathered = staging.gather(entries, tensors, pathlib.Path(folder))
        arrays = {name: np.array(x, np.float32) for name, x in gathered.items()}
    return config, jax.device_put(unflatten(arrays))


def hidden_step(dit: DiT) -> Any:
    """Compiled: the residual stream before the first and after the last layer."""

    def run(params, noisy, conditions, text, timestep, plan):
        model, patches = bind(dit, params), join_channels(noisy, conditions)
        timesteps = jnp.broadcast_to(timestep, plan.text_length.shape)
        return model.vid_in(patches), model.hidden(patches, text, timesteps, plan)[0][-1]

    return jax.jit(run)


def results(dit: DiT, params: Params, inputs: Any, valid: np.ndarray) -> dict[str, np.ndarray]:
    """The kept tokens' results by name, in float64."""
    before, hidden = hidden_step(dit)(params, *inputs)
    velocity = velocity_step(dit)(params, *inputs)
    found = {"hidden": hidden, "update": hidden.astype(jnp.float32) - before, "velocity": velocity}
    return {name: np.asarray(x.astype(jnp.float32), np.float64)[valid] for name, x in found.items()}


def rows_of(values: flags.FlagValues) -> list[dict[str, Any]]:
    """A row for each precision: its relative errors."""
    config, params = parameters(values)
    plan = plan_for(blob_mask(tuple(map(int, values.grid)), values.skip))
    inputs = jax.device_put(random_inputs(config, plan, jnp.float32))
    want = results(abstract_dit(config, "float32"), params, inputs, plan.valid)
    rows = []
    for precision in PRECISIONS:
        dit = abstract_dit(config, values.dtype, precision=precision)
        made = jax.tree.map(jnp.copy, params)  # quantising deletes the kernels
        if dit.format is not None:
            made = quantize_params(made, to_dict(dit), dit.format)
        made = jax.tree.map(lambda x, leaf: x.astype(leaf.dtype), made, to_dict(dit))
        found = results(dit, made, inputs, plan.valid)
        errors = {
            name: float(np.linalg.norm(found[name] - exact) / np.linalg.norm(exact))
            for name, exact in want.items()
        }
        rows.append({"products": precision if dit.format else values.dtype} | errors)
    return rows


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    rows = rows_of(values)
    print(format_table(rows))
    if values.out:
        write_json(values.out, device_facts() | {"argv": list(argv)[1:], "rows": rows})
    return 0


if __name__ == "__main__":
    run_program("precision", main)
