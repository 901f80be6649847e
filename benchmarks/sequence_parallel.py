"""Measures several devices against one in one run: inference over seq, a training step over fsdp.

    python -m benchmarks.sequence_parallel --out=sequence_parallel.json
    python -m benchmarks.sequence_parallel --devices=2 --notrain --skips=0,0.4
    python -m benchmarks.sequence_parallel --noinfer --notrain_baseline      # two GPUs of 80 GB

Inference is one call of the transformer on one clip of --infer_frames x --height x --width, with
blob masks that skip each of --skips and bfloat16 parameters replicated on the devices. Training is
a step on --packs clips (default: one for each device) of --frames, with float32 state sharded over
fsdp and rematerialised blocks. Parameters are random and made on the devices. Efficiency is the
seconds on one device / (devices x seconds on all). The difference is, in inference, the largest of
the velocities relative to the largest velocity on one device; in training, the largest relative one
of the losses of the first three steps.

State and gradients of 3B take 68 GB: they fit a device of 141 GB, not one of 80 GB. Two devices of
80 GB hold 34 GB each and the activations of one clip of 21 frames of 720p.
"""

import gc
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh

from benchmarks import train_step
from benchmarks.masks import blob_mask
from benchmarks.measure import device_facts, format_table, median_seconds, run_program, write_json
from benchmarks.models import (
    abstract_dit,
    first_device,
    plan_for,
    random_inputs,
    random_parameters,
)
from skipsr_jax.commandline import parse_flags
from skipsr_jax.geometry import token_grid
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.parallel.mesh import make_mesh, pack_sharding, replicated
from skipsr_jax.parallel.rules import bytes_per_device, shardings
from skipsr_jax.parallel.sequence import check_heads
from skipsr_jax.training.settings import Optimizer
from skipsr_jax.training.step import fresh_state, make_step

COMPARED_STEPS = 3


def define_flags() -> flags.FlagValues:
    """The flags of benchmarks.train_step, and those of the mesh and of inference."""
    values = train_step.define_flags()
    values["packs"].value = 0
    text = "Devices of the mesh; 0: all that this host has."
    flags.DEFINE_integer("devices", 0, text, flag_values=values)
    flags.DEFINE_integer("infer_frames", 101, "Frames in inference.", flag_values=values)
    text = "Fractions of tokens that the masks skip in inference."
    flags.DEFINE_list("skips", ["0", "0.4"], text, flag_values=values)
    flags.DEFINE_bool("infer", True, "Measure inference.", flag_values=values)
    flags.DEFINE_bool("train", True, "Measure training.", flag_values=values)
    text = "Also measure training on one device."
    flags.DEFINE_bool("train_baseline", True, text, flag_values=values)
    return values


def infer_on(mesh: Mesh, values: flags.FlagValues) -> dict[float, tuple[float, np.ndarray]]:
    """Measures inference; returns seconds and velocities of kept tokens by fraction skipped."""
    config, dtype = DIT_PRESETS[values.model], np.dtype(values.dtype)
    dit = abstract_dit(config, dtype)
    grid = token_grid(values.infer_frames, values.height, values.width)
    found, step = {}, velocity_step(dit)
    with jax.set_mesh(mesh):
        params = random_parameters(dit, mesh)
        for skip in map(float, values.skips):
            plan = plan_for(blob_mask(grid, skip), values.devices)
            if mesh.size == 1:  # tokens in the same order, to be compared
                plan = plan._replace(shard_layouts=None)
            inputs = random_inputs(config, plan, dtype)
            inputs = jax.device_put(inputs, replicated(mesh))
            seconds = median_seconds(lambda inputs=inputs: step(params, *inputs), values.steps)
            found[skip] = seconds, np.asarray(step(params, *inputs))[plan.valid]
    return found


def train_on(mesh: Mesh, values: flags.FlagValues) -> tuple[float, list[float], int]:
    """Measures training; returns the seconds of a step, the first losses, and bytes of state.

    The bytes are those of one device.
    """
    stage, vae = train_step.make_stage(values)
    optimizer = Optimizer(float(train_step.RATE))

    def start() -> Any:
        return fresh_state(stage, optimizer, jax.random.key(0))

    shapes = jax.eval_shape(start)
    batch = train_step.make_batch(values, vae, values.skip)
    with jax.set_mesh(mesh):
        state = jax.jit(start, out_shardings=shardings(shapes, mesh))()
        batch = jax.device_put(batch, pack_sharding(mesh))
        step = jax.jit(make_step(stage, optimizer, 0), donate_argnums=0)
        losses = []

        def run() -> Any:
            nonlocal state
            state, metrics = step(state, {}, batch, train_step.RATE)
            return metrics

        for _ in range(COMPARED_STEPS):
            losses.append(float(run()["loss"]))
        seconds = median_seconds(run, values.steps, warmup=0)
    return seconds, losses, bytes_per_device(shapes, mesh)


def row_of(name: str, one: float | None, many: float, devices: int, difference: float | None):
    """A row of the table."""
    return {
        "program": name,
        "seconds_one": one,
        "seconds_all": many,
        "speedup": None if one is None else one / many,
        "efficiency": None if one is None else one / many / devices,
        "difference": difference,
    }


def infer_rows(alone: Mesh, values: flags.FlagValues) -> list[dict[str, Any]]:
    """Measures inference on one device, then on all over seq; a row for each fraction skipped."""
    one = infer_on(alone, values)
    gc.collect()  # the first parameters, before the second ones are made
    many = infer_on(make_mesh(1, 1, values.devices, devices=_devices(values)), values)
    rows = []
    for skip, (seconds, expected) in one.items():
        got = many[skip][1]
        difference = float(np.abs(got - expected).max() / np.abs(expected).max())
        name = f"infer seq={values.devices}, {len(expected)} tokens, {100 * skip:g}% skipped"
        rows.append(row_of(name, seconds, many[skip][0], values.devices, difference))
    return rows


def train_rows(alone: Mesh, values: flags.FlagValues) -> list[dict[str, Any]]:
    """Measures training on one device, unless --notrain_baseline, then on all over fsdp."""
    values.packs = values.packs or values.devices
    one = train_on(alone, values) if values.train_baseline else None
    gc.collect()
    mesh = make_mesh(1, values.devices, 1, devices=_devices(values))
    seconds, losses, held = train_on(mesh, values)
    difference = None if one is None else float(np.max(np.abs(np.divide(losses, one[1]) - 1)))
    name = f"train fsdp={values.devices}, {values.packs} packs, {held / 2**30:.1f} GiB of state"
    row = row_of(name, one and one[0], seconds, values.devices, difference)
    return [row | {"losses_one": one and one[1], "losses_all": losses}]


def _devices(values: flags.FlagValues) -> list[jax.Device]:
    return jax.devices()[: values.devices]


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    values.devices = values.devices or jax.device_count()
    check_heads(values.devices, DIT_PRESETS[values.model].heads)
    alone = first_device()
    rows = []
    for wanted, measure in ((values.infer, infer_rows), (values.train, train_rows)):
        if wanted:
            rows += measure(alone, values)
            print(rows[-1], flush=True)
    columns = list(row_of("", 1.0, 1.0, 1, 0.0))
    print(format_table(rows, columns))
    if values.out:
        facts = device_facts() | {"used": values.devices, "model": values.model}
        write_json(values.out, facts | {"argv": list(argv)[1:], "rows": rows})
    return 0


if __name__ == "__main__":
    run_program("sequence_parallel", main)
