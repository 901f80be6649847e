"""Both implementations on blocks against numpy, pixel by pixel; and the choice between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.choice import first_supported
from skipsr_jax.kernels.norm_silu_concat import ScaleShift, norm_silu_concat_blocks
from skipsr_jax.kernels.norm_silu_concat.blocks import triton as pallas_triton
from skipsr_jax.kernels.norm_silu_concat.blocks import xla
from skipsr_jax.kernels.norm_silu_concat.blocks.api import IMPLEMENTATIONS
from skipsr_jax.kernels.norm_silu_concat.blocks.xla import BlocksProblem
from skipsr_jax.kernels.target import Target
from skipsr_jax.tokens.blocks import plan_blocks

GRID = (3, 4)
BF16, E4M3 = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float8_e4m3fn)
PROBLEM = BlocksProblem(2304, 4, 16, 128, 2, BF16, BF16)
HOPPER = Target("gpu", (9, 0))


def problem(size, frames, cached, channels, fraction, dtype=jnp.bfloat16):
    """Random blocks, scales and shifts, and a cache, in two slots more than are active."""
    rng = np.random.default_rng(0)
    active = rng.random((2, *GRID)) < fraction
    active[0] = True
    slots = min(int(active[1].sum()) + 2, active[1].size)
    blocks = jax.tree.map(jnp.asarray, plan_blocks(active, slots)[1])

    def draw(*shape, kind=dtype):
        return jnp.asarray(rng.normal(size=shape), kind)

    x = draw(slots, frames, size, size, channels)
    cache = draw(active[0].size, cached, size + 2, size + 2, channels)
    scale_shift = ScaleShift(*(draw(frames, channels, kind=jnp.float32) for _ in range(3)))
    return active[1], blocks, x, scale_shift, cache


def expected(active, x, scale_shift, cache):
    """In numpy, over the whole picture."""
    x, cache = np.asarray(x, np.float32), np.asarray(cache, np.float32)
    if scale_shift is not None:
        mean, scale, shift = (np.asarray(part)[:, None, None] for part in scale_shift)
        y = (x - mean) * scale + shift
        x = np.asarray(jnp.asarray(y / (1 + np.exp(-y)), jnp.bfloat16), np.float32)
    _, frames, size, _, channels = x.shape
    rows, columns = GRID
    picture = np.zeros((frames, size * rows + 2, size * columns + 2, channels), np.float32)
    indices = np.flatnonzero(active)
    result, after = [], cache.copy()
    for slot, index in enumerate(indices):
        r, c = (size * at for at in divmod(index, columns))
        picture[:, 1 + r : 1 + r + size, 1 + c : 1 + c + size] = x[slot]
    for index in indices:
        r, c = (size * at for at in divmod(index, columns))
        with_halo = picture[:, r : r + size + 2, c : c + size + 2]
        result.append(np.concatenate([cache[index], with_halo]))
        after[index] = result[-1][-cache.shape[1] :]
    return np.stack(result) if result else np.zeros((0,)), after


CASES = {
    "halos and silu": (4, 4, 2, 16, 0.6, True),
    "no scale and shift": (8, 4, 2, 32, 0.5, False),
    "one cached frame, odd size": (5, 4, 1, 16, 0.5, True),
    "as many new as old": (4, 2, 2, 16, 0.5, True),
    "all": (4, 4, 2, 16, 1.1, True),
    "none": (4, 4, 2, 16, -1.0, True),
}
RUNS = {
    "xla": lambda x, scale_shift, cache, blocks: xla.norm_silu_concat(
        x,
        scale_shift,
        cache,
        blocks.block_index,
        blocks.neighbours,
        xla.halo_index(blocks.neighbours, x.shape[2]),
    ),
    "pallas_triton": lambda x, scale_shift, cache, blocks: pallas_triton.norm_silu_concat(
        x, scale_shift, cache, blocks.block_index, blocks.neighbours, interpret=True
    ),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_result_and_cache(name, case):
    *sizes, has_scale_shift = case
    active, blocks, x, scale_shift, cache = problem(*sizes)
    scale_shift = scale_shift if has_scale_shift else None
    result, after = RUNS[name](x, scale_shift, cache, blocks)
    want, want_after = expected(active, x, scale_shift, cache)
    count = int(active.sum())
    tolerance = {"rtol": 1e-2, "atol": 1e-2}  # one step of bfloat16
    np.testing.assert_allclose(np.asarray(after, np.float32), want_after, **tolerance)
    if count:
        np.testing.assert_allclose(np.asarray(result[:count], np.float32), want, **tolerance)


def quantised_problem(*sizes):
    """A problem with a cache in e4m3, and with numbers beyond the range of e4m3."""
    active, blocks, x, scale_shift, cache = problem(*sizes)
    return active, blocks, x.at[..., 0].set(9e4), scale_shift, cache.astype(E4M3)


def check_e4m3(found, active, inputs, count):
    for got, want, rows in zip(
        found, expected(active, *inputs), (count, len(inputs[2])), strict=True
    ):
        assert got.dtype == E4M3
        got = np.asarray(got[:rows].astype(jnp.float32))
        np.testing.assert_allclose(got, np.clip(want, -448, 448), rtol=1 / 12, atol=2**-8)
        assert np.abs(got).max() == 448


@pytest.mark.parametrize("name", RUNS)
def test_results_in_e4m3_are_limited(name):
    active, blocks, *inputs = quantised_problem(4, 4, 2, 16, 0.6)
    check_e4m3(RUNS[name](*inputs, blocks), active, inputs, int(active.sum()))


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize(("size", "channels"), [(16, 128), (8, 256), (8, 512)])
def test_e4m3_compiled_on_a_gpu(size, channels):
    active, blocks, *inputs = quantised_problem(size, 4, 2, channels, 0.6)
    halo = xla.halo_index(blocks.neighbours, size)
    run = jax.jit(norm_silu_concat_blocks)
    found = run(*inputs, blocks.block_index, blocks.neighbours, halo)
    check_e4m3(found, active, inputs, int(active.sum()))


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("channels", [16, 128, 256])
def test_compiled_on_a_gpu(channels):
    _, blocks, x, scale_shift, cache = problem(16, 4, 2, channels, 0.6)
    halo = xla.halo_index(blocks.neighbours, 16)
    got = jax.jit(norm_silu_concat_blocks)(
        x, scale_shift, cache, blocks.block_index, blocks.neighbours, halo
    )
    want = RUNS["xla"](x, scale_shift, cache, blocks)
    count = int((blocks.block_index < len(cache)).sum())
    for a, b, rows in zip(got, want, (count, len(cache)), strict=True):
        a, b = (np.asarray(part[:rows], np.float32) for part in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({}, Target("cpu"), "NVIDIA GPU"),
        ({}, Target("gpu", (7, 5)), "7.5"),
        ({"dtype": jnp.dtype(jnp.float32)}, HOPPER, "float32"),
        ({"channels": 192}, HOPPER, "192"),
        ({"frames": 1}, HOPPER, "1 to 1 cached frames"),
        ({"result_dtype": E4M3}, Target("gpu", (8, 0)), "8.9"),
        ({"result_dtype": jnp.dtype(jnp.float32)}, HOPPER, "or e4m3, not float32"),
    ],
)
def test_the_kernel_where_it_can_else_the_reference(change, target, reason):
    assert first_supported(IMPLEMENTATIONS, PROBLEM, HOPPER) == ("pallas_triton", {})
    name, refused = first_supported(
        IMPLEMENTATIONS, BlocksProblem(**(vars(PROBLEM) | change)), target
    )
    assert name == "xla" and reason in refused["pallas_triton"]


@pytest.mark.usefixtures("abstract_h200")
@pytest.mark.parametrize("kind", [BF16, E4M3])
@pytest.mark.parametrize(("size", "cached", "channels"), [(16, 2, 128), (8, 2, 512), (16, 1, 256)])
def test_the_kernel_lowers_for_an_abstract_h200(size, cached, channels, kind):
    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype)

    scale_shift = ScaleShift(*(shape(4, channels, dtype=jnp.float32) for _ in range(3)))
    cache = shape(3600, cached, size + 2, size + 2, channels, dtype=kind)
    block_index, around = (shape(2304, *more, dtype=jnp.int32) for more in ((), (9,)))
    traced = jax.jit(pallas_triton.norm_silu_concat).trace(
        shape(2304, 4, size, size, channels), scale_shift, cache, block_index, around
    )
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call") == 1
