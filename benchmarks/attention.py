"""Attention over packed windows at the shapes of 720p x 101 frames, all implementations in one run.

    XLA_PYTHON_CLIENT_PREALLOCATE=false python -m benchmarks.attention --out=attention.json
    python -m benchmarks.attention --grid=3,6,8 --text=5 --heads=2 --head_dim=16 --dtype=float32
    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 TPU_WORKER_HOSTNAMES=localhost \
        python -m benchmarks.attention --tpu --shapes=regular --out=attention_tpu.json

Windows of the regular partition, of the shifted one, and regular ones with a random 40-80 % of each
window's video tokens kept; every window also holds the text. Forward, and forward with backward, in
milliseconds and TFLOP/s of useful work: 4 (14 with backward) multiply-adds' operations per pair of
rows of one segment, per head and channel. ``error`` is relative, of the first window's first heads
against dense float32. torch's varlen attention (FlashAttention-2) is timed beside where a torch
with CUDA is installed, and the matmul ceiling in the same run.

--tpu runs nothing: it compiles the TPU kernels of heads of 128 channels in bfloat16 for chips that
need not be there (libtpu must be installed), see ``benchmarks.attention_tpu``.
"""

import functools
import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import attention_tpu
from benchmarks.measure import (
    device_facts,
    format_table,
    matmul_ceiling,
    median_seconds,
    write_json,
)
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.varlen_attention import IMPLEMENTATIONS, varlen_attention
from skipsr_jax.kernels.varlen_attention.api import problem_of
from skipsr_jax.kernels.varlen_attention.problem import current_target
from skipsr_jax.tokens.windows import window_boxes
from skipsr_jax.types import Array

SHAPES = ("regular", "shifted", "ragged")
DTYPES = ("bfloat16", "float16", "float32")
KEPT = (0.4, 0.8)  # share of a ragged window's video tokens
CHECKED_HEADS = 2
FORWARD, BOTH = 4, 14  # operations per pair of rows and channel: 2 and 7 matrix products


def define_flags() -> flags.FlagValues:
    """The command line."""
    values = flags.FlagValues()
    flags.DEFINE_list("grid", ["26", "45", "80"], "Tokens (t, h, w).", flag_values=values)
    flags.DEFINE_list("shapes", list(SHAPES), "Which windows.", flag_values=values)
    flags.DEFINE_integer("text", 58, "Text rows in every window.", flag_values=values)
    flags.DEFINE_integer("heads", 20, "Heads.", flag_values=values)
    flags.DEFINE_integer("head_dim", 128, "Channels of a head.", flag_values=values)
    text = "Of queries, keys, values."
    flags.DEFINE_enum("dtype", "bfloat16", DTYPES, text, flag_values=values)
    flags.DEFINE_integer("repeats", 10, "Timed calls of each.", flag_values=values)
    flags.DEFINE_integer("ceiling_side", 8192, "Matrices of the ceiling.", flag_values=values)
    flags.DEFINE_bool("tpu", False, "Compile for TPUs, run nothing.", flag_values=values)
    chips = list(attention_tpu.TOPOLOGIES)
    flags.DEFINE_list("chips", chips, "Which TPUs, with --tpu.", flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def grid_of(values: flags.FlagValues) -> tuple[int, int, int]:
    """Tokens along time, height and width."""
    sides = [int(n) for n in values.grid if n.isdecimal() and int(n) > 0]
    if len(sides) != 3 or len(values.grid) != 3:
        raise UserError(f"--grid={','.join(values.grid)} must be three positive integers: 26,45,80")
    return sides[0], sides[1], sides[2]


def window_lengths(shape: str, grid: tuple[int, int, int], text: int) -> np.ndarray:
    """Rows of each window, text included."""
    if shape not in SHAPES:
        raise UserError(f"unknown shape {shape!r}; choose from {', '.join(SHAPES)}")
    boxes = window_boxes(grid, shape == "shifted")
    lengths = np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
    if shape == "ragged":
        share = np.random.default_rng(0).uniform(*KEPT, size=len(lengths))
        lengths = np.rint(lengths * share).astype(int)
    return lengths + text


def useful_operations(lengths: np.ndarray, heads: int, head_dim: int, per_pair: int) -> float:
    """Of all pairs of rows in a segment."""
    return float(per_pair * head_dim * heads * (lengths.astype(float) ** 2).sum())


def make_inputs(lengths: np.ndarray, values: flags.FlagValues) -> tuple[Array, ...]:
    """q, k, v, the gradient of the output, and cu_seqlens."""
    size = (1, int(lengths.sum()), values.heads, values.head_dim)
    keys = jax.random.split(jax.random.key(0), 4)
    arrays = (jax.random.normal(key, size, jnp.dtype(values.dtype)) for key in keys)
    return *arrays, jnp.asarray(np.cumsum([0, *lengths])[None], jnp.int32)


def dense_first_window(inputs: tuple[Array, ...]) -> np.ndarray:
    """Float32 output (rows, heads, head_dim) of the first window's first heads."""
    rows = int(inputs[4][0, 1])
    q, k, v = (x[0, :rows, :CHECKED_HEADS].astype(jnp.float32) for x in inputs[:3])
    dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    weights = jax.nn.softmax(dot("qap,kap->aqk", q, k) * q.shape[-1] ** -0.5, axis=-1)
    return np.asarray(dot("aqk,kap->qap", weights, v))


def relative_error(out: np.ndarray, want: np.ndarray) -> float:
    """Of the first window's first heads of ``out`` (s, a, p), in the norm."""
    got = out[: want.shape[0], : want.shape[1]].astype(np.float32)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def jax_runs(name: str, inputs: tuple[Array, ...]) -> tuple[Callable, Callable, np.ndarray]:
    """Forward, forward with backward, and the forward's output (s, a, p)."""
    q, k, v, d_out, cu = inputs
    scale = q.shape[-1] ** -0.5

    @jax.jit
    def forward(q, k, v, cu):
        return varlen_attention(q, k, v, cu, scale=scale, implementation=name)

    @jax.jit
    def both(q, k, v, cu, d_out):
        out, pull = jax.vjp(lambda *x: forward(*x, cu), q, k, v)
        return out, *pull(d_out)

    out = np.asarray(forward(q, k, v, cu)[0, : int(cu[0, 1]), :CHECKED_HEADS])
    return lambda: forward(q, k, v, cu), lambda: both(q, k, v, cu, d_out), out


def torch_runs(
    inputs: tuple[Array, ...], longest: int
) -> tuple[Callable, Callable, np.ndarray] | None:
    """The same of torch's varlen attention; None without torch, CUDA or a 16-bit dtype."""
    try:
        import torch
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if not torch.cuda.is_available() or inputs[0].dtype != jnp.bfloat16:
        return None

    def move(x: Array) -> Any:
        return torch.from_numpy(np.asarray(x[0], np.float32)).to("cuda", torch.bfloat16)

    q, k, v = (move(x).requires_grad_() for x in inputs[:3])
    d_out = move(inputs[3])
    cu = torch.from_numpy(np.array(inputs[4][0])).to("cuda")

    def forward() -> None:
        with torch.no_grad():
            varlen_attn(q, k, v, cu, cu, longest, longest)
        torch.cuda.synchronize()

    def both() -> None:
        q.grad = k.grad = v.grad = None
        varlen_attn(q, k, v, cu, cu, longest, longest).backward(d_out)
        torch.cuda.synchronize()

    with torch.no_grad():
        out = varlen_attn(q, k, v, cu, cu, longest, longest)[:, :CHECKED_HEADS]
    return forward, both, out.float().cpu().numpy()


def measure(shape: str, values: flags.FlagValues) -> tuple[list[dict], dict[str, str]]:
    """Rows of the table for one shape, and why the others did not run."""
    lengths = window_lengths(shape, grid_of(values), values.text)
    inputs = make_inputs(lengths, values)
    want = dense_first_window(inputs)
    candidates: dict[str, Callable] = {}
    refused = {}
    for name, implementation in IMPLEMENTATIONS.items():
        reason = implementation.supported(problem_of(inputs[0], inputs[4]), current_target())
        if reason is None:
            candidates[name] = functools.partial(jax_runs, name, inputs)
        else:
            refused[name] = reason
    candidates["torch varlen"] = functools.partial(torch_runs, inputs, int(lengths.max()))
    rows = []
    for name, prepare in candidates.items():
        runs = prepare()
        if runs is None:
            refused[name] = "no torch with CUDA and varlen attention, or not bfloat16"
            continue
        row = {"shape": shape, "implementation": name, "rows": int(lengths.sum())}
        row["windows"] = len(lengths)
        for kind, run, per_pair in (("forward", runs[0], FORWARD), ("both", runs[1], BOTH)):
            seconds = median_seconds(run, values.repeats, warmup=2)
            work = useful_operations(lengths, values.heads, values.head_dim, per_pair)
            row |= {f"{kind}_ms": seconds * 1e3, f"{kind}_tflops": work / seconds / 1e12}
        rows.append(row | {"error": relative_error(runs[2], want)})
    return rows, refused


def run_here(values: flags.FlagValues) -> dict:
    """Times everything that runs on this device and prints the table."""
    dtype = jnp.dtype(values.dtype)
    ceiling = matmul_ceiling(dtype, values.ceiling_side)
    rows, refused = [], {}
    for shape in values.shapes:
        more, refused = measure(shape, values)
        rows += more
    facts = device_facts() | {"heads": values.heads, "head_dim": values.head_dim}
    print(f"{facts['device']}, {values.heads} heads x {values.head_dim}, {values.dtype}")
    print(f"matmul ceiling {ceiling:.4g} TFLOP/s; both = forward with backward")
    print(format_table(list(rows[0]), [list(row.values()) for row in rows]))
    for name, reason in refused.items():
        print(f"not run: {name}: {reason}")
    return facts | {"matmul_ceiling_tflops": ceiling, "rows": rows, "not_run": refused}


def main(argv: Sequence[str]) -> int:
    """Prints the table and writes the JSON."""
    values = define_flags()
    values(list(argv))
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


def run_main() -> None:
    """``main`` with one clear line for what the user can mend."""
    try:
        sys.exit(main(sys.argv))
    except (UserError, flags.Error) as error:
        print(f"attention: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_main()
