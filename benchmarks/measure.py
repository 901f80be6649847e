"""Functions that all benchmarks share: timing, peaks of the device, tables and JSON files.

A time is the median over calls after a warm-up. Each call is waited for, so that it includes the
gaps between launches. Ratios are taken between numbers of one run only.
"""

import concurrent.futures
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from skipsr_jax import signals
from skipsr_jax.errors import UserError
from skipsr_jax.files import new_file
from skipsr_jax.models.layers.convolution_options import convolution_options

CEILING_SIDE = 8192
"""Side of the square matrices whose product gives the measured peak of matrix products."""


def clip_size(text: str, flag: str = "--clips") -> tuple[int, int, int]:
    """(frames, height, width) of ``101x720x1280``. Raises UserError for anything else."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) for part in parts):
        raise UserError(f"{flag}: {text!r} is not frames x height x width, e.g. 21x720x1280")
    frames, height, width = map(int, parts)
    return frames, height, width


def median_seconds(run: Callable[[], Any], repeats: int = 5, warmup: int = 1) -> float:
    """Median wall-clock seconds of ``run``, from its call until the arrays it returns are ready."""
    for _ in range(warmup):
        jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def compile_together(lowered: Any) -> Any:
    """Compiles every ``jax.stages.Lowered`` of a pytree, in parallel threads."""
    leaves, tree = jax.tree.flatten(lowered)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        return jax.tree.unflatten(tree, list(threads.map(lambda one: one.compile(), leaves)))


def matmul_ceiling(dtype: Any = jnp.bfloat16, side: int = CEILING_SIDE) -> float:
    """Measured TFLOP/s of a product of two ``side`` x ``side`` matrices of random numbers."""
    keys = jax.random.split(jax.random.key(0), 2)
    a, b = (jax.random.normal(key, (side, side), dtype) for key in keys)
    multiply = jax.jit(jnp.matmul)  # of arguments: constants would be copied into the program
    seconds = median_seconds(lambda: multiply(a, b), repeats=10, warmup=2)
    return 2 * side**3 / seconds / 1e12


def conv_ceiling(shape: tuple[int, int, int, int], dtype: Any = jnp.bfloat16) -> float:
    """Measured TFLOP/s of a 3 x 3 x 3 convolution on random numbers.

    ``shape``: (frames, height, width, channels) of its output; its input has as many channels.
    """
    frames, height, width, channels = shape
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (1, frames + 2, height, width, channels), dtype)
    kernel = jax.random.normal(keys[1], (3, 3, 3, channels, channels), dtype)

    def convolve(x: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 1, 1),
            padding=((0, 0), (1, 1), (1, 1)),
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )

    compiled = jax.jit(convolve, compiler_options=convolution_options())
    seconds = median_seconds(lambda: compiled(x, kernel), repeats=10, warmup=2)
    return 2 * frames * height * width * 27 * channels**2 / seconds / 1e12


def peak_gib() -> float | None:
    """The most memory of the first device in use since the process began, in GiB.

    None on a device that does not report it, such as a CPU.
    """
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return None if peak is None else peak / 2**30


def format_table(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> str:
    """The rows as text: the first column left-aligned, floats with four significant digits.

    ``columns``: the keys to show; default: those of the first row. A missing value shows as "-".
    """
    columns = columns or list(rows[0])

    def cell(value: Any) -> str:
        if value is None:
            return "-"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    cells = [list(columns), *([cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = []
    for row in cells:
        padded = [f"{row[0]:<{widths[0]}}"]
        padded += [f"{text:>{width}}" for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def write_json(path: str, content: Any) -> None:
    """Writes ``content`` as the JSON file ``path``, which appears when it is complete."""
    with new_file(pathlib.Path(path), overwrite=True) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def run_program(name: str, main: Callable[[Sequence[str]], int]) -> None:
    """Runs ``main`` and exits.

    After a UserError the status is 1, after signal n it is 128 + n, each with one line on stderr.
    """
    try:
        with signals.raised(name):
            sys.exit(main(sys.argv))
    except UserError as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt as stop:
        sys.exit(signals.report(name, stop))


def device_facts() -> dict[str, Any]:
    """The device, the number of devices, the version of jax and XLA_FLAGS, for a JSON file."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
