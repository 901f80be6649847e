"""Both implementations against what joining means; and the choice between them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.choice import first_supported
from skipsr_jax.kernels.norm_silu_concat.frames import IMPLEMENTATIONS, join_frames, xla
from skipsr_jax.kernels.norm_silu_concat.frames import triton as pallas_triton
from skipsr_jax.kernels.norm_silu_concat.frames.problem import Join
from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine
from skipsr_jax.kernels.target import Target

JOIN = Join(1, 4, 720, 1280, (0, 0), 128, 2, jnp.dtype(jnp.bfloat16), 1)
HOPPER = Target("gpu", (9, 0))
TOLERANCE = {"rtol": 1e-2, "atol": 1e-2}  # one step of bfloat16


def problem(clips, frames, size, channels, past, mapped, dtype=jnp.bfloat16):
    rng = np.random.default_rng(0)

    def draw(*shape, kind=dtype):
        return jnp.asarray(rng.normal(size=shape), kind)

    x, before = (draw(clips, count, *size, channels) for count in (frames, past))
    affine = Affine(*(draw(clips, frames, channels, kind=jnp.float32) for _ in range(3)))
    return x, affine if mapped else None, before


def expected(x, affine, past, ends=(0, 0)):
    """In numpy."""
    new = np.asarray(x, np.float64)
    if affine is not None:
        mean, gain, bias = (np.asarray(part)[:, :, None, None] for part in affine)
        y = (new - mean) * gain + bias
        new = y / (1 + np.exp(-y))
    joined = np.concatenate([np.asarray(past, np.float64), new], axis=1)
    bottom, right = ends
    padded = np.pad(joined, ((0, 0), (0, 0), (0, bottom), (0, right), (0, 0)))
    return padded, joined[:, joined.shape[1] - past.shape[1] :]


CASES = {
    "silu of a map": (1, 4, (4, 8), 16, 2, True),
    "clips, each with its maps": (2, 3, (4, 4), 32, 2, True),
    "no map, one frame of past": (2, 4, (4, 4), 16, 1, False),
    "fewer new frames than old ones": (2, 1, (4, 4), 16, 2, True),
    "pixels that fill no program": (2, 2, (5, 7), 16, 2, True),
    "more channels than a program takes": (1, 2, (4, 4), 256, 2, True),
}
WAYS = {
    "xla": xla.join_frames,
    "pallas_triton": lambda *given: pallas_triton.join_frames(*given, interpret=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("ends", [(0, 0), (1, 1), (0, 2)])
def test_joining(way, case, ends):
    given = *problem(*case), ends
    for got, want in zip(WAYS[way](*given), expected(*given), strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(got, np.float64), want, **TOLERANCE)


def test_gradients_are_those_of_the_reference(monkeypatch):
    given = problem(1, 2, (4, 4), 16, 2, True)

    def gradients(join):
        def loss(*given):
            return sum(jnp.sum(jnp.sin(part.astype(jnp.float32))) for part in join(*given)[:2])

        return jax.grad(loss, argnums=(0, 1, 2))(*given)

    wanted = gradients(xla.join_frames)
    monkeypatch.delitem(IMPLEMENTATIONS, "xla")
    kernel = IMPLEMENTATIONS["pallas_triton"]
    monkeypatch.setitem(
        IMPLEMENTATIONS,
        "pallas_triton",
        type(kernel)(lambda join, target: None, WAYS["pallas_triton"]),
    )
    found = gradients(functools.partial(join_frames, padding=((0, 1), (1, 1))))
    for got, want in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        got, want = (np.asarray(part, np.float32) for part in (got, want))
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(got, want, **TOLERANCE)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("channels", [16, 128, 256])
@pytest.mark.parametrize(("frames", "past"), [(4, 2), (2, 1), (1, 2)])
@pytest.mark.parametrize("ends", [(0, 0), (1, 1)])
def test_compiled_on_a_gpu(channels, frames, past, ends):
    given = problem(2, frames, (21, 32), channels, past, True)
    wanted = expected(*given, ends)
    padding = tuple((0, end) for end in ends)
    *found, rest = jax.jit(join_frames, static_argnums=3)(*given, padding)
    assert rest == ((0, 0), (0, 0))
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float64), want, **TOLERANCE)


def test_only_the_kernel_takes_padding_from_the_convolution(monkeypatch):
    given = problem(1, 2, (4, 4), 16, 2, True)
    padding = ((1, 2), (0, 1))
    joined, after, rest = join_frames(*given, padding)
    assert joined.shape[2:4] == after.shape[2:4] == (4, 4) and rest == padding
    kernel = type(IMPLEMENTATIONS["xla"])(lambda join, target: None, WAYS["pallas_triton"])
    monkeypatch.setitem(IMPLEMENTATIONS, "pallas_triton", kernel)
    joined, after, rest = join_frames(*given, padding)
    assert joined.shape[2:4] == (5, 5) and after.shape[2:4] == (4, 4) and rest == ((1, 1), (0, 0))


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({}, Target("cpu"), "NVIDIA GPU"),
        ({}, Target("gpu", (7, 5)), "7.5"),
        ({"dtype": jnp.dtype(jnp.float32)}, HOPPER, "float32"),
        ({"channels": 3}, HOPPER, "not 3"),
        ({"past": 0}, HOPPER, "before"),
        ({"devices": 8}, HOPPER, "8 devices"),
        ({"clips": 4}, HOPPER, "at most 2147483647 numbers"),
    ],
)
def test_the_kernel_where_it_can_else_the_reference(change, target, reason):
    assert first_supported(IMPLEMENTATIONS, JOIN, HOPPER) == ("pallas_triton", {})
    name, refused = first_supported(IMPLEMENTATIONS, Join(**(vars(JOIN) | change)), target)
    assert name == "xla" and reason in refused["pallas_triton"]


@pytest.mark.parametrize(
    ("size", "frames", "channels", "past", "mapped", "ends"),
    [
        ((720, 1280), 4, 128, 2, True, (0, 0)),
        ((360, 640), 4, 256, 1, False, (1, 1)),
        ((90, 160), 1, 512, 2, True, (0, 0)),
        ((45, 75), 2, 32, 2, True, (0, 0)),
        ((45, 75), 2, 32, 2, True, (1, 1)),
    ],
)
def test_the_kernel_lowers_for_an_abstract_h200(
    abstract_h200, size, frames, channels, past, mapped, ends
):
    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype)

    lines = shape(1, frames, channels, dtype=jnp.float32)
    affine = Affine(lines, lines, lines) if mapped else None
    given = shape(1, frames, *size, channels), affine, shape(1, past, *size, channels)
    run = jax.jit(functools.partial(pallas_triton.join_frames, ends=ends))
    lowered = run.trace(*given).lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("stablehlo.custom_call") == 1
