"""Measures attention over packed windows, all implementations in one run.

    XLA_PYTHON_CLIENT_PREALLOCATE=false python -m benchmarks.attention --out=attention.json
    python -m benchmarks.attention --grid=3,6,8 --text=5 --heads=2 --head_dim=16 --dtype=float32
    python -m benchmarks.attention --tpu --shapes=regular --out=attention_tpu.json

The default sizes are those of 101 frames of 720p in 3B. The windows are those of the regular
partition, those of the shifted one, and "ragged" ones: regular windows with a random 40-80 % of
their video tokens kept. Every window also holds the text.

The columns give forward, and forward with backward ("both"), in milliseconds and TFLOP/s of useful
work. A plain time is that of a call that is waited for; a queued one is the time per call of
--queue calls that are waited for once, as calls within a larger program are. Useful work is 4
operations (14 with backward) per pair of rows of one window, per head and channel. The errors are
relative to the XLA version in float32: of the output, and of the worst of the three gradients, in
the worst window and the first and last head. torch's varlen attention (FlashAttention-2) is
measured too where a torch with CUDA is installed, and so is the matmul ceiling.

--tpu runs nothing: it compiles the TPU kernels of heads of 128 channels in bfloat16, without a TPU
but with libtpu; see ``benchmarks.attention_tpu``.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import Array

from benchmarks import attention_tpu
from benchmarks.attention_runs import (
    Runs,
    differentiated,
    jax_programs,
    jax_runs,
    outer_heads,
    torch_runs,
)
from benchmarks.measure import (
    compile_together,
    device_facts,
    format_table,
    matmul_ceiling,
    median_seconds,
    run_program,
    write_json,
)
from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.attention import IMPLEMENTATIONS, Problem, xla
from skipsr_jax.kernels.target import current_target
from skipsr_jax.tokens.windows import window_boxes

SHAPES = ("regular", "shifted", "ragged")
DTYPES = ("bfloat16", "float16", "float32")
KEPT = (0.4, 0.8)  # range of the kept fraction of a ragged window's video tokens
FORWARD, BOTH = 4, 14  # operations per pair of rows and channel: 2 and 7 matrix products


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    flags.DEFINE_list("grid", ["26", "45", "80"], "Token grid (t, r, q).", flag_values=values)
    flags.DEFINE_list("shapes", list(SHAPES), "Kinds of windows.", flag_values=values)
    flags.DEFINE_integer("text", 58, "Text rows in every window.", flag_values=values)
    flags.DEFINE_integer("heads", 20, "Heads.", flag_values=values)
    flags.DEFINE_integer("head_dim", 128, "Channels of a head.", flag_values=values)
    text = "Of queries, keys and values."
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, text, flag_values=values)
    flags.DEFINE_integer("repeats", 10, "Timed runs of each.", flag_values=values)
    flags.DEFINE_integer("queue", 8, "Calls of a queued timing.", flag_values=values)
    flags.DEFINE_list("without", [], "Implementations to leave out.", flag_values=values)
    flags.DEFINE_integer("ceiling_side", 8192, "Side of its matrices.", flag_values=values)
    flags.DEFINE_bool("tpu", False, "Compile for TPUs, run nothing.", flag_values=values)
    chips = list(attention_tpu.TOPOLOGIES)
    flags.DEFINE_list("chips", chips, "Kinds of TPU, with --tpu.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def grid_of(values: flags.FlagValues) -> tuple[int, int, int]:
    """The token grid: time, rows, columns. Raises UserError for anything else."""
    sides = [int(n) for n in values.grid if n.isdecimal() and int(n) > 0]
    if len(sides) != 3 or len(values.grid) != 3:
        raise UserError(f"--grid={','.join(values.grid)} must be three positive integers: 26,45,80")
    return sides[0], sides[1], sides[2]


def window_lengths(shape: str, grid: tuple[int, int, int], text: int) -> np.ndarray:
    """The number of attention rows of each window, text included."""
    if shape not in SHAPES:
        raise UserError(f"unknown shape {shape!r}; choose from {', '.join(SHAPES)}")
    boxes = window_boxes(grid, shape == "shifted")
    lengths = np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
    if shape == "ragged":
        kept = np.random.default_rng(0).uniform(*KEPT, size=len(lengths))
        lengths = np.rint(lengths * kept).astype(int)
    return lengths + text


def useful_operations(lengths: np.ndarray, heads: int, head_dim: int, per_pair: int) -> float:
    """Counts the operations of all pairs of rows that share a window."""
    return float(per_pair * head_dim * heads * (lengths.astype(float) ** 2).sum())


def make_inputs(lengths: np.ndarray, values: flags.FlagValues) -> tuple[Array, ...]:
    """Random q, k, v and gradient of the output, and cu_seqlens."""
    size = (1, int(lengths.sum()), values.heads, values.head_dim)
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = (jax.random.normal(key, size, jnp.dtype(values.dtype)) for key in keys)
    return *arrays, jnp.asarray(np.cumsum([0, *lengths])[None], jnp.int32)


def exact_inputs(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    """The inputs in float32, reduced to the outer heads, and cu_seqlens."""
    *arrays, cu = inputs
    return *(outer_heads(x).astype(jnp.float32) for x in arrays), cu


def worst_error(found: np.ndarray, exact: np.ndarray, bounds: np.ndarray) -> float:
    """The largest relative error, in the norm, of the windows between ``bounds``; NaN if any is."""

    def norms(x: np.ndarray) -> np.ndarray:
        squares = np.square(x, dtype=np.float64).sum(axis=(1, 2))
        return np.sqrt(np.add.reduceat(squares, bounds[:-1]))

    return float(np.max(norms(found.astype(np.float32) - exact) / norms(exact)))


@dataclasses.dataclass(frozen=True)
class Case:
    """Windows of one kind, and the programs that run on them."""

    shape: str
    lengths: np.ndarray
    inputs: tuple[Array, ...]
    lowered: dict[str, tuple[jax.stages.Lowered, ...]]
    exact: jax.stages.Lowered
    refused: dict[str, str]


def prepare(shape: str, values: flags.FlagValues) -> Case:
    """Makes inputs and programs, not yet compiled, and notes why implementations do not run."""
    lengths = window_lengths(shape, grid_of(values), values.text)
    inputs = make_inputs(lengths, values)
    lowered, refused = {}, {}
    for name, implementation in IMPLEMENTATIONS.items():
        reason = implementation.supported(Problem.of(inputs[0], inputs[4]), current_target())
        if name in values.without:
            refused[name] = "left out by --without"
        elif reason is None:
            lowered[name] = jax_programs(name, inputs)
        else:
            refused[name] = reason
    exact = differentiated(xla.varlen_attention).lower(*exact_inputs(inputs))
    return Case(shape, lengths, inputs, lowered, exact, refused)


def time_runs(case: Case, name: str, runs: Runs, values: flags.FlagValues) -> dict:
    """Measures one implementation; prints and returns its row."""
    row = {"shape": case.shape, "implementation": name, "rows": int(case.lengths.sum())}
    row["windows"] = len(case.lengths)
    for kind, run, per_pair in (("forward", runs.forward, FORWARD), ("both", runs.both, BOTH)):
        work = useful_operations(case.lengths, values.heads, values.head_dim, per_pair)
        for calls, column in ((1, kind), (values.queue, f"{kind}_queued")):
            repeat = functools.partial(runs.queued, run, calls)
            seconds = median_seconds(repeat, values.repeats, warmup=2) / calls
            row |= {f"{column}_ms": seconds * 1e3, f"{column}_tflops": work / seconds / 1e12}
    print(format_table([row]), flush=True)
    return row


def errors_of(runs: Runs, exact: tuple[np.ndarray, ...], bounds: np.ndarray) -> dict:
    """The errors of the output and of the worst gradient."""
    errors = [worst_error(*pair, bounds) for pair in zip(runs.results(), exact, strict=True)]
    return {"out_error": errors[0], "gradient_error": float(np.max(errors[1:]))}


def measure(
    case: Case,
    compiled: dict[str, Sequence[jax.stages.Compiled]],
    exact: jax.stages.Compiled,
    values: flags.FlagValues,
) -> tuple[list[dict], dict[str, str]]:
    """Measures one kind of windows; returns the rows, torch's first, and why others did not run.

    Times are measured before errors, so that a run that is interrupted has printed the times.
    """
    refused = dict(case.refused)
    of_torch = torch_runs(case.inputs, int(case.lengths.max()))
    if of_torch is None:
        refused["torch varlen"] = "no torch with CUDA and varlen attention, or not bfloat16"
    runs = {} if of_torch is None else {"torch varlen": of_torch}
    runs |= {name: jax_runs(programs, case.inputs) for name, programs in compiled.items()}
    rows = [time_runs(case, name, each, values) for name, each in runs.items()]
    reference = tuple(np.asarray(x[0]) for x in exact(*exact_inputs(case.inputs)))
    bounds = np.asarray(case.inputs[4][0])
    for row, (name, each) in zip(rows, runs.items(), strict=True):
        row |= errors_of(each, reference, bounds)
        print(
            f"{case.shape}, {name}: errors {row['out_error']:.2e}, {row['gradient_error']:.2e}",
            flush=True,
        )
    return rows, refused


def run_here(values: flags.FlagValues) -> dict:
    """Measures all implementations that run on this device and prints the table."""
    if unknown := set(values.without) - set(IMPLEMENTATIONS):
        known = ", ".join(IMPLEMENTATIONS)
        raise UserError(f"--without={','.join(sorted(unknown))} is not among {known}")
    dtype = jnp.dtype(values.dtype)
    cases = [prepare(shape, values) for shape in values.shapes]
    compiled = compile_together([(case.lowered, case.exact) for case in cases])
    ceiling = matmul_ceiling(dtype, values.ceiling_side)
    rows, refused = [], {}
    for case, programs in zip(cases, compiled, strict=True):
        more, refused = measure(case, *programs, values)
        rows += more
    facts = device_facts() | {"heads": values.heads, "head_dim": values.head_dim}
    print(f"{facts['device']}, {values.heads} heads x {values.head_dim}, {values.dtype}")
    print(f"matmul ceiling {ceiling:.4g} TFLOP/s; both = forward with backward")
    print(format_table(rows))
    for name, reason in refused.items():
        print(f"not run: {name}: {reason}")
    return facts | {"matmul_ceiling_tflops": ceiling, "rows": rows, "not_run": refused}


def main(argv: Sequence[str]) -> int:
    """Measures or compiles, prints the table and writes it as JSON."""
    values = parse_flags(argv, define_flags(), __doc__)
    if values.tpu:
        lengths = {
            shape: window_lengths(shape, grid_of(values), values.text) for shape in values.shapes
        }
        content = attention_tpu.run(lengths, values.heads, values.chips)
    else:
        content = run_here(values)
    if values.out:
        write_json(values.out, {"argv": list(itertools.islice(argv, 1, None))} | content)
    return 0


if __name__ == "__main__":
    run_program("attention", main)
