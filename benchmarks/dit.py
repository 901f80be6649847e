"""Measures speed and memory of one call of the transformer, with and without skipped tokens.

    python -m benchmarks.dit --out=dit.json
    python -m benchmarks.dit --models=seedvr_7b --clips=101x1080x1920 --skips=0,0.396
    python -m benchmarks.dit --clips=101x720x1280 --precisions=bf16,fp8,int8
    python -m benchmarks.dit --models=tiny --clips=5x64x96 --dtype=float32 --ceiling_side=256

It runs on one device with random parameters and inputs and blob masks (benchmarks.masks). A clip is
frames x height x width in pixels, padded as inference pads it. TFLOP/s count the model operations
of kept tokens (skipsr_jax.models.flops). The matmul ceiling is the speed of one large matrix
product, measured in the same run. ``program_gib`` is the memory that the compiler plans for
arguments and temporaries; ``peak_gib`` is the most that the device has used since the process
began, so name clips in the order of their size.
"""

import gc
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from benchmarks.masks import blob_mask
from benchmarks.measure import (
    CEILING_SIDE,
    clip_size,
    device_facts,
    format_table,
    matmul_ceiling,
    median_seconds,
    peak_gib,
    run_program,
    write_json,
)
from benchmarks.models import (
    abstract_dit,
    first_device,
    plan_for,
    random_inputs,
    random_parameters,
)
from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import token_grid
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.kernels.quantized import PRECISIONS
from skipsr_jax.models.flops import dit_flops
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.types import DTYPES

CLIPS = ["1x720x1280", "21x720x1280", "101x720x1280", "101x1080x1920"]


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = f"Transformers, of {', '.join(sorted(DIT_PRESETS))}."
    flags.DEFINE_list("models", ["seedvr2_3b"], text, flag_values=values)
    flags.DEFINE_list("clips", CLIPS, "frames x height x width of each.", flag_values=values)
    text = "Fractions of tokens that the masks skip."
    flags.DEFINE_list("skips", ["0.396", "0"], text, flag_values=values)
    flags.DEFINE_integer("repeats", 5, "Timed calls of each.", flag_values=values)
    flags.DEFINE_enum(
        "dtype", "bfloat16", DTYPES, "Of parameters and products.", flag_values=values
    )
    text = f"Precisions of the blocks' products, of {', '.join(PRECISIONS)}."
    flags.DEFINE_list("precisions", ["bf16"], text, flag_values=values)
    text = "Side of the matrices whose product is the ceiling."
    flags.DEFINE_integer("ceiling_side", CEILING_SIDE, text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def rows_of(
    model: str, precision: str, values: flags.FlagValues, ceiling: float
) -> Iterator[dict[str, Any]]:
    """Measures and yields a row for each clip and fraction of skipped tokens."""
    config, dtype = DIT_PRESETS[model], jnp.dtype(values.dtype)
    dit = abstract_dit(config, dtype, precision=precision)
    params = random_parameters(dit, first_device())
    programs: dict[tuple[tuple[int, ...], ...], Any] = {}
    for clip in values.clips:
        for skip in map(float, values.skips):
            plan = plan_for(blob_mask(token_grid(*clip_size(clip)), skip))
            inputs = jax.device_put(random_inputs(config, plan, dtype))
            bucket = tuple(leaf.shape for leaf in jax.tree.leaves(plan))
            if bucket not in programs:
                programs[bucket] = velocity_step(dit).lower(params, *inputs).compile()
            run = programs[bucket]
            memory = run.memory_analysis()
            seconds = median_seconds(
                lambda run=run, inputs=inputs: run(params, *inputs), values.repeats
            )
            rate = dit_flops(config, plan).total / seconds / 1e12
            yield {
                "case": f"{model} {clip}, {100 * skip:g} % skipped",
                "precision": precision,
                "tokens": int(plan.valid.sum()),
                "bucket": plan.patch_index.shape[1],
                "seconds": seconds,
                "tflop": rate * seconds,
                "tflops": rate,
                "of_ceiling_percent": 100 * rate / ceiling,
                "program_gib": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 2**30,
                "peak_gib": peak_gib(),
            }


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    unknown = [model for model in values.models if model not in DIT_PRESETS]
    if unknown:
        raise UserError(f"--models: {unknown} are not among {sorted(DIT_PRESETS)}")
    unknown = [precision for precision in values.precisions if precision not in PRECISIONS]
    if unknown:
        raise UserError(f"--precisions: {unknown} are not among {', '.join(PRECISIONS)}")
    sizes = [clip_size(clip) for clip in values.clips]
    ceiling = matmul_ceiling(jnp.dtype(values.dtype), values.ceiling_side)
    facts = device_facts() | {"matmul_ceiling_tflops": ceiling, "sizes": sizes}
    print(f"{facts['device']}, matmul ceiling {ceiling:.3g} TFLOP/s", flush=True)
    rows: list[dict[str, Any]] = []
    for model, precision in itertools.product(values.models, values.precisions):
        for row in rows_of(model, precision, values, ceiling):
            rows.append(row)
            print(" ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if values.out:  # after each row: a later one may not fit
                write_json(values.out, facts | {"argv": list(argv)[1:], "rows": rows})
        gc.collect()  # its parameters, before the next ones are made
    print(format_table(rows))
    return 0


if __name__ == "__main__":
    run_program("dit", main)
