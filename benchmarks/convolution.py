"""Compares a 3 x 3 x 3 convolution written in Pallas for Hopper GPUs with cuDNN's.

    python -m benchmarks.convolution
    python -m benchmarks.convolution --tiny --repeats=3 --variants=fp8_16x16

The layers are those of the full autoencoder's decoder at 720p: frames, height, width, channels;
stride 1. The kernel is that of ``skipsr_jax.kernels.convolution``. A variant is compared at a small
size with XLA's convolution in float32 of the same numbers, and timed if it is right. Times are of
calls queued behind each other and leave out the ordering of weights, which is done once.
"""

import functools
import math
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags
from jax import Array, lax

from benchmarks.measure import device_facts, format_table, run_program, write_json
from skipsr_jax.commandline import parse_flags
from skipsr_jax.errors import UserError
from skipsr_jax.kernels import convolution
from skipsr_jax.kernels.convolution import CHANNELS
from skipsr_jax.kernels.convolution.mosaic import BF16, BLOCKS, FP8, FRAMES, Variant, convolve
from skipsr_jax.kernels.convolution.weights import in_order_of_use
from skipsr_jax.kernels.target import current_target
from skipsr_jax.models.layers.convolution_options import convolution_options
from skipsr_jax.types import DType

NUMBERS = ("NDHWC", "DHWIO", "NDHWC")
TOLERANCE = 0.03  # of the largest result; bfloat16 alone errs by 0.004
LAYERS = ((4, 720, 1280, 128), (4, 360, 640, 256))
TINY_LAYERS = ((2, 48, 128, 128), (2, 48, 128, 256))
CHECKS = ((3, 20, 64, 128, 128), (2, 40, 192, 256, 256))
"""(frames, height, width, channels in, channels out); some tiles reach beyond the frame."""

_TALL = {"rows": 24, "pixel_stages": 2}
VARIANTS = {
    "fp8_16x16": BLOCKS,
    "fp8_16x16_pair": Variant(cluster=2),
    "fp8_24x16_pair": Variant(cluster=2, weight_stages=5, **_TALL),
    "fp8_24x16_3groups": FRAMES,
    "fp8_24x16_3groups_pair": Variant(cluster=2, groups=3, registers=(160, 32), **_TALL),
    "bf16_16x16_pair": Variant(cluster=2, dtype=BF16),
}


def refusal() -> str | None:
    """Why the kernel cannot run on this machine; None where it can."""
    problem = convolution.ConvolutionProblem(CHANNELS, CHANNELS, jnp.dtype(BF16))
    return convolution.refusal(problem, current_target())


def xla_convolve(
    x: Array, weights: Array, scale: Array, *, result: Any, precision: Any = None
) -> Array:
    """XLA's convolution: cuDNN's on a GPU.

    ``result``: the dtype that it is asked to give; results in float32 alone are scaled.
    """
    y = lax.conv_general_dilated(
        x[None],
        weights,
        window_strides=(1, 1, 1),
        padding=((0, 0), (1, 1), (1, 1)),
        dimension_numbers=NUMBERS,
        preferred_element_type=result,
        precision=precision,
    )[0]
    return y * scale.astype(y.dtype) if result == jnp.float32 else y


XLA_ROWS = {
    "cudnn_bf16": (BF16, BF16),
    "cudnn_fp8": (FP8, BF16),
    "cudnn_fp8_f32": (FP8, jnp.float32),
    "cudnn_fp8_fp8": (FP8, FP8),
}
"""Dtypes of operands and result. Of the fp8 ones the fastest counts: XLA may convert before."""


def random_layer(
    frames: int, height: int, width: int, in_channels: int, out_channels: int
) -> tuple[Array, Array, Array]:
    """Input and weights in e4m3, and the factors."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (frames + 2, height, width, in_channels), BF16)
    weights = jax.random.normal(keys[1], (3, 3, 3, in_channels, out_channels), BF16)
    scale = jax.random.uniform(keys[2], (out_channels,), jnp.float32, 0.5, 1.5)
    return x.astype(FP8), weights.astype(FP8), scale * (27 * in_channels) ** -0.5


def _ours(name: str, x: Array, weights: Array, scale: Array) -> tuple[Callable[..., Array], tuple]:
    """The compiled kernel of a variant and its arguments."""
    variant = VARIANTS[name]

    def run(x: Array, weights: Array, scale: Array) -> Array:
        return convolve(x[None], weights, scale, jnp.zeros_like(scale), variant)[0]

    weights = in_order_of_use(weights.astype(variant.dtype), variant.depth)
    arguments = jax.block_until_ready((x.astype(variant.dtype), weights, scale))
    return jax.jit(run).lower(*arguments).compile(), arguments


@functools.cache
def meant(shape: tuple[int, ...]) -> Array:
    """The result of ``random_layer(*shape)`` in float32."""
    x, weights, scale = random_layer(*shape)
    exact = functools.partial(xla_convolve, result=jnp.float32, precision=lax.Precision.HIGHEST)
    run = jax.jit(exact, compiler_options=convolution_options())
    return run(x.astype(jnp.float32), weights.astype(jnp.float32), scale)


def relative_error(name: str, shape: tuple[int, ...]) -> float:
    """The largest error of a variant, as a part of the largest result."""
    run, arguments = _ours(name, *random_layer(*shape))
    found = run(*arguments).astype(jnp.float32)
    error = jnp.abs(found - meant(shape)).max() / jnp.abs(meant(shape)).max()
    return float(error) if jnp.isfinite(error) else math.inf


def queued_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Seconds of one of ``repeats`` calls queued behind each other; the least of three rounds."""
    jax.block_until_ready(run())
    times = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(repeats):
            last = run()
        jax.block_until_ready(last)
        times.append((time.perf_counter() - began) / repeats)
    return min(times)


def _attempt(name: str, action: Callable[[], Any], verbose: bool) -> Any:
    """Its result; None, with a line that says why, if it fails. The others are still to run."""
    try:
        return action()
    except Exception as error:
        text = " ".join(str(error).split())
        print(f"{name} failed: {type(error).__name__}: {text[:200]}", flush=True)
        if verbose:
            traceback.print_exc()
    return None


def right_variants(names: Sequence[str], verbose: bool) -> list[str]:
    """Those that give XLA's numbers; a line says the errors of each."""
    right = []
    for name in names:
        errors = [
            _attempt(name, functools.partial(relative_error, name, shape), verbose)
            for shape in CHECKS
        ]
        if None not in errors:
            good = max(errors) < TOLERANCE
            right += [name] * good
            listed = ", ".join(f"{error:.2g}" for error in errors)
            print(f"{name} {'right' if good else 'WRONG'}: errors {listed}", flush=True)
    return right


def layer_rows(
    shape: tuple[int, int, int, int], names: Sequence[str], repeats: int, verbose: bool
) -> list[dict[str, Any]]:
    """A row for each of cuDNN's types and for each variant; printed as they come."""
    frames, height, width, channels = shape
    tera = 2 * frames * height * width * 27 * channels**2 / 1e12
    layer, rows = random_layer(*shape, channels), []

    def xla(dtype: DType, result: DType) -> float:
        arguments = (*(part.astype(dtype) for part in layer[:2]), layer[2])
        run = jax.jit(
            functools.partial(xla_convolve, result=result), compiler_options=convolution_options()
        )
        return queued_seconds(lambda: run(*arguments), repeats)

    def ours(name: str) -> float:
        run, arguments = _ours(name, *layer)
        return queued_seconds(lambda: run(*arguments), repeats)

    programs = {name: functools.partial(xla, *dtypes) for name, dtypes in XLA_ROWS.items()}
    programs |= {name: functools.partial(ours, name) for name in names}
    for name, program in programs.items():
        seconds = _attempt(name, program, verbose)
        if seconds is None:
            continue
        speeds = {row["kernel"]: row["tflops_per_second"] for row in rows}
        speed = tera / seconds
        fp8 = [speeds[x] for x in speeds if x.startswith("cudnn_fp8")]
        rows.append(
            {
                "layer": "x".join(map(str, shape)),
                "kernel": name,
                "ms": 1e3 * seconds,
                "tflops_per_second": speed,
                "times_bf16": speed / speeds.get("cudnn_bf16", speed),
                "times_fp8": speed / max(fp8, default=speed),
            }
        )
        print(format_table(rows[-1:]), flush=True)
    return rows


def define_flags() -> flags.FlagValues:
    """The flags of the command line."""
    values = flags.FlagValues()
    flags.DEFINE_integer("repeats", 20, "Calls in a round.", lower_bound=1, flag_values=values)
    flags.DEFINE_bool("tiny", False, "Small layers.", flag_values=values)
    flags.DEFINE_bool("verbose", False, "Print tracebacks.", flag_values=values)
    text = f"Of {', '.join(VARIANTS)}."
    flags.DEFINE_list("variants", list(VARIANTS), text, flag_values=values)
    flags.DEFINE_string("out", None, "JSON file to write.", flag_values=values)
    return values


def main(argv: Sequence[str]) -> int:
    """Checks the variants, and times those that are right beside cuDNN."""
    values = parse_flags(argv, define_flags(), __doc__)
    if reason := refusal():
        raise UserError(f"the kernel is for Hopper GPUs (H100, H200): {reason}")
    if unknown := [name for name in values.variants if name not in VARIANTS]:
        raise UserError(f"--variants: {', '.join(unknown)} is none of {', '.join(VARIANTS)}")
    right, rows = right_variants(values.variants, values.verbose), []
    for shape in TINY_LAYERS if values.tiny else LAYERS:
        rows += layer_rows(shape, right, values.repeats, values.verbose)
    if rows:
        print(format_table(rows))
    if values.out:
        write_json(values.out, device_facts() | {"rows": rows})
    return 0


if __name__ == "__main__":
    run_program("convolution", main)
