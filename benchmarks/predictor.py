"""Measures the mask predictor that comes with the package: from frames on the host to logits there.

    python -m benchmarks.predictor --out=predictor.json
    python -m benchmarks.predictor --clips=5x64x96 --factors=2,4 --dtype=float32

The clips are random bytes. ``seconds`` is from the call to the logits on the host, with the upload
of the frames; ``device_s`` is that of a call on frames that are on the device already. The medians
are of calls that are each waited for.
"""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks.measure import (
    clip_size,
    device_facts,
    format_table,
    median_seconds,
    peak_gib,
    run_program,
    write_json,
)
from skipsr_jax.commandline import parse_flags
from skipsr_jax.geometry import pad_frames
from skipsr_jax.inference.model import SHIPPED_PREDICTOR, load_predictor
from skipsr_jax.inference.programs import predictor_step
from skipsr_jax.models.flops import traced_flops
from skipsr_jax.models.predictor import cell_weights
from skipsr_jax.types import DTYPES


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    text = "frames x height x width of each, at the target size."
    flags.DEFINE_list("clips", ["101x720x1280", "101x1080x1920"], text, flag_values=values)
    flags.DEFINE_list("factors", ["4", "2"], "Upscaling factors.", flag_values=values)
    flags.DEFINE_integer("repeats", 7, "Timed calls of each.", flag_values=values)
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, "Of the layers.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Measures all rows, prints them as a table and writes them as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    predictor, params = load_predictor(SHIPPED_PREDICTOR, jnp.dtype(values.dtype).type)
    step, rows = predictor_step(predictor), []
    for clip, factor in itertools.product(values.clips, map(float, values.factors)):
        count, *target = clip_size(clip)
        size = tuple(round(side / factor) for side in target)
        frames = np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)
        frames = pad_frames(frames)
        weights = jax.device_put(cell_weights(size, tuple(target)))
        on_device = jax.device_put(frames)
        rows.append({
            "clip": clip,
            "factor": factor,
            "seconds": median_seconds(
                lambda frames=frames, weights=weights: np.asarray(step(params, frames, weights)),
                values.repeats,
            ),
            "device_s": median_seconds(
                lambda frames=on_device, weights=weights: step(params, frames, weights),
                values.repeats,
            ),
            "tflop": traced_flops(step, params, frames, weights) / 1e12,
            "peak_gib": peak_gib(),
        })  # fmt: skip
        print(" ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    print(format_table(rows))
    if values.out:
        facts = device_facts() | {"dtype": values.dtype, "argv": list(argv)[1:]}
        write_json(values.out, facts | {"rows": rows})
    return 0


if __name__ == "__main__":
    run_program("predictor", main)
