"""Both implementations on frames against numpy; and the choice between them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.choice import first_supported
from skipsr_jax.kernels.norm_silu_concat import ScaleShift, norm_silu_concat_frames
from skipsr_jax.kernels.norm_silu_concat.frames import triton as pallas_triton
from skipsr_jax.kernels.norm_silu_concat.frames import xla
from skipsr_jax.kernels.norm_silu_concat.frames.api import IMPLEMENTATIONS
from skipsr_jax.kernels.norm_silu_concat.frames.xla import FramesProblem
from skipsr_jax.kernels.target import Target

PROBLEM = FramesProblem(
    1, 4, 720, 1280, (0, 0), 128, 2, jnp.dtype(jnp.bfloat16), 1, jnp.dtype(jnp.bfloat16)
)
HOPPER = Target("gpu", (9, 0))
TOLERANCE = {"rtol": 1e-2, "atol": 1e-2}  # one step of bfloat16
E4M3 = jnp.dtype(jnp.float8_e4m3fn)
E4M3_TOLERANCE = {"rtol": 1 / 15, "atol": 2**-9}  # half a step


def problem(clips, frames, size, channels, cached, has_scale_shift, dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)

    def draw(*shape, kind=dtype):
        return jnp.asarray(rng.normal(size=shape), kind)

    x, before = (draw(clips, count, *size, channels) for count in (frames, cached))
    scale_shift = ScaleShift(*(draw(clips, frames, channels, kind=jnp.float32) for _ in range(3)))
    return x, scale_shift if has_scale_shift else None, before


def expected(x, scale_shift, cached, ends=(0, 0)):
    """In numpy."""
    new = np.asarray(x, np.float64)
    if scale_shift is not None:
        mean, scale, shift = (np.asarray(part)[:, :, None, None] for part in scale_shift)
        y = (new - mean) * scale + shift
        new = y / (1 + np.exp(-y))
    result = np.concatenate([np.asarray(cached, np.float64), new], axis=1)
    bottom, right = ends
    padded = np.pad(result, ((0, 0), (0, 0), (0, bottom), (0, right), (0, 0)))
    return padded, result[:, result.shape[1] - cached.shape[1] :]


CASES = {
    "scale, shift and silu": (1, 4, (4, 8), 16, 2, True),
    "clips, each with its own": (2, 3, (4, 4), 32, 2, True),
    "no scale and shift, one cached frame": (2, 4, (4, 4), 16, 1, False),
    "fewer new frames than old ones": (2, 1, (4, 4), 16, 2, True),
    "pixels that fill no program": (2, 2, (5, 7), 16, 2, True),
    "more channels than a program takes": (1, 2, (4, 4), 256, 2, True),
}
RUNS = {
    "xla": xla.norm_silu_concat,
    "pallas_triton": functools.partial(pallas_triton.norm_silu_concat, interpret=True),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("ends", [(0, 0), (1, 1), (0, 2)])
def test_result_and_cache(name, case, ends):
    inputs = *problem(*case), ends
    for got, want in zip(RUNS[name](*inputs), expected(*inputs), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(got, np.float64), want, **TOLERANCE)


def quantised(x, scale_shift, before):
    """The problem with a cache in e4m3, and with numbers beyond the range of e4m3."""
    return x.at[..., 0].set(9e4).at[..., 1].set(-9e4), scale_shift, before.astype(E4M3)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_results_in_e4m3_are_rounded_once_and_limited(name, case):
    inputs = quantised(*problem(*case))
    found = RUNS[name](*inputs, dtype=E4M3)
    for got, want in zip(found, expected(*inputs), strict=True):
        assert got.dtype == E4M3
        got = np.asarray(got, np.float64)
        np.testing.assert_allclose(got, np.clip(want, -448, 448), **E4M3_TOLERANCE)
        assert np.abs(got).max() == 448


def _interpreted_kernel():
    """The Triton kernel as an implementation that runs here."""
    return dataclasses.replace(
        IMPLEMENTATIONS["pallas_triton"],
        supported=lambda problem, target: None,
        run=RUNS["pallas_triton"],
    )


def test_gradients_are_those_of_the_reference(monkeypatch):
    inputs = problem(1, 2, (4, 4), 16, 2, True)

    def gradients(run):
        def loss(*inputs):
            return sum(jnp.sum(jnp.sin(part.astype(jnp.float32))) for part in run(*inputs)[:2])

        return jax.grad(loss, argnums=(0, 1, 2))(*inputs)

    wanted = gradients(xla.norm_silu_concat)
    monkeypatch.delitem(IMPLEMENTATIONS, "xla")
    monkeypatch.setitem(IMPLEMENTATIONS, "pallas_triton", _interpreted_kernel())
    found = gradients(functools.partial(norm_silu_concat_frames, padding=((0, 1), (1, 1))))
    for got, want in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        got, want = (np.asarray(part, np.float32) for part in (got, want))
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(got, want, **TOLERANCE)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("channels", [16, 128, 256])
@pytest.mark.parametrize(("frames", "cached"), [(4, 2), (2, 1), (1, 2)])
@pytest.mark.parametrize("ends", [(0, 0), (1, 1)])
def test_compiled_on_a_gpu(channels, frames, cached, ends):
    inputs = problem(2, frames, (21, 32), channels, cached, True)
    wanted = expected(*inputs, ends)
    padding = tuple((0, end) for end in ends)
    *found, rest = jax.jit(norm_silu_concat_frames, static_argnums=3)(*inputs, padding)
    assert rest == ((0, 0), (0, 0))
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float64), want, **TOLERANCE)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("channels", [128, 256])
@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("has_scale_shift", [True, False])
def test_e4m3_compiled_on_a_gpu(channels, frames, has_scale_shift):
    inputs = quantised(*problem(2, frames, (21, 32), channels, 2, has_scale_shift))
    run = functools.partial(norm_silu_concat_frames, padding=((1, 1), (1, 1)), dtype=E4M3)
    *found, _ = jax.jit(run)(*inputs)
    for got, want in zip(found, expected(*inputs), strict=True):
        got = np.asarray(got.astype(jnp.float32), np.float64)
        np.testing.assert_allclose(got, np.clip(want, -448, 448), **E4M3_TOLERANCE)


def test_only_the_kernel_takes_padding_from_the_convolution(monkeypatch):
    inputs = problem(1, 2, (4, 4), 16, 2, True)
    padding = ((1, 2), (0, 1))
    result, after, rest = norm_silu_concat_frames(*inputs, padding)
    assert result.shape[2:4] == after.shape[2:4] == (4, 4) and rest == padding
    monkeypatch.setitem(IMPLEMENTATIONS, "pallas_triton", _interpreted_kernel())
    result, after, rest = norm_silu_concat_frames(*inputs, padding)
    assert result.shape[2:4] == (5, 5) and after.shape[2:4] == (4, 4) and rest == ((1, 1), (0, 0))


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({}, Target("cpu"), "NVIDIA GPU"),
        ({}, Target("gpu", (7, 5)), "7.5"),
        ({"dtype": jnp.dtype(jnp.float32)}, HOPPER, "float32"),
        ({"channels": 3}, HOPPER, "not 3"),
        ({"cached": 0}, HOPPER, "in the cache"),
        ({"devices": 8}, HOPPER, "8 devices"),
        ({"clips": 4}, HOPPER, "at most 2147483647 numbers"),
        ({"result_dtype": E4M3}, Target("gpu", (8, 0)), "8.9"),
        ({"result_dtype": jnp.dtype(jnp.float32)}, HOPPER, "or e4m3, not float32"),
    ],
)
def test_the_kernel_where_it_can_else_the_reference(change, target, reason):
    assert first_supported(IMPLEMENTATIONS, PROBLEM, HOPPER) == ("pallas_triton", {})
    name, refused = first_supported(
        IMPLEMENTATIONS, FramesProblem(**(vars(PROBLEM) | change)), target
    )
    assert name == "xla" and reason in refused["pallas_triton"]


@pytest.mark.parametrize(
    ("size", "frames", "channels", "cached", "has_scale_shift", "ends", "kind"),
    [
        ((720, 1280), 4, 128, 2, True, (0, 0), jnp.bfloat16),
        ((360, 640), 4, 256, 1, False, (1, 1), jnp.bfloat16),
        ((90, 160), 1, 512, 2, True, (0, 0), jnp.bfloat16),
        ((45, 75), 2, 32, 2, True, (0, 0), jnp.bfloat16),
        ((45, 75), 2, 32, 2, True, (1, 1), jnp.bfloat16),
        ((720, 1280), 4, 128, 2, True, (0, 0), E4M3),
        ((45, 75), 2, 256, 2, True, (0, 0), E4M3),
    ],
)
def test_the_kernel_lowers_for_an_abstract_h200(
    abstract_h200, size, frames, channels, cached, has_scale_shift, ends, kind
):
    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype)

    lines = shape(1, frames, channels, dtype=jnp.float32)
    scale_shift = ScaleShift(lines, lines, lines) if has_scale_shift else None
    cache = shape(1, cached, *size, channels, dtype=kind)
    inputs = shape(1, frames, *size, channels), scale_shift, cache
    run = functools.partial(pallas_triton.norm_silu_concat, end_padding=ends, dtype=kind)
    run = jax.jit(run)
    lowered = run.trace(*inputs).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("stablehlo.custom_call") == 1
