"""Both implementations against what joining means, pixel by pixel; and the choice between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.choice import first_supported
from skipsr_jax.kernels.norm_silu_concat.blocks import IMPLEMENTATIONS, join_blocks, xla
from skipsr_jax.kernels.norm_silu_concat.blocks import triton as pallas_triton
from skipsr_jax.kernels.norm_silu_concat.blocks.problem import Join
from skipsr_jax.kernels.norm_silu_concat.scale_shift import Affine
from skipsr_jax.kernels.target import Target
from skipsr_jax.tokens.blocks import plan_blocks

GRID = (3, 4)
JOIN = Join(2304, 4, 16, 128, 2, jnp.dtype(jnp.bfloat16))
HOPPER = Target("gpu", (9, 0))


def problem(size, frames, past, channels, share, dtype=jnp.bfloat16):
    """Random blocks, maps and a table, in two slots more than are active."""
    rng = np.random.default_rng(0)
    active = rng.random((2, *GRID)) < share
    active[0] = True
    slots = min(int(active[1].sum()) + 2, active[1].size)
    blocks = jax.tree.map(jnp.asarray, plan_blocks(active, slots)[1])

    def draw(*shape, kind=dtype):
        return jnp.asarray(rng.normal(size=shape), kind)

    x = draw(slots, frames, size, size, channels)
    table = draw(active[0].size, past, size + 2, size + 2, channels)
    affine = Affine(*(draw(frames, channels, kind=jnp.float32) for _ in range(3)))
    return active[1], blocks, x, affine, table


def expected(active, x, affine, table):
    """In numpy, over the whole picture."""
    x, table = np.asarray(x, np.float32), np.asarray(table, np.float32)
    if affine is not None:
        mean, gain, bias = (np.asarray(part)[:, None, None] for part in affine)
        y = (x - mean) * gain + bias
        x = np.asarray(jnp.asarray(y / (1 + np.exp(-y)), jnp.bfloat16), np.float32)
    _, frames, size, _, channels = x.shape
    rows, columns = GRID
    picture = np.zeros((frames, size * rows + 2, size * columns + 2, channels), np.float32)
    places = np.flatnonzero(active)
    joined, after = [], table.copy()
    for slot, place in enumerate(places):
        r, c = (size * at for at in divmod(place, columns))
        picture[:, 1 + r : 1 + r + size, 1 + c : 1 + c + size] = x[slot]
    for place in places:
        r, c = (size * at for at in divmod(place, columns))
        seen = picture[:, r : r + size + 2, c : c + size + 2]
        joined.append(np.concatenate([table[place], seen]))
        after[place] = joined[-1][-table.shape[1] :]
    return np.stack(joined) if joined else np.zeros((0,)), after


CASES = {
    "borders and silu": (4, 4, 2, 16, 0.6, True),
    "no map": (8, 4, 2, 32, 0.5, False),
    "one frame of past, odd size": (5, 4, 1, 16, 0.5, True),
    "as many new as old": (4, 2, 2, 16, 0.5, True),
    "all": (4, 4, 2, 16, 1.1, True),
    "none": (4, 4, 2, 16, -1.0, True),
}
WAYS = {
    "xla": lambda x, affine, table, blocks: xla.join_blocks(
        x, affine, table, blocks.block_index, xla.border_of(blocks.neighbours, x.shape[2])
    ),
    "pallas_triton": lambda x, affine, table, blocks: pallas_triton.join_blocks(
        x, affine, table, blocks.block_index, blocks.neighbours, interpret=True
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_joining(way, case):
    *sizes, mapped = case
    active, blocks, x, affine, table = problem(*sizes)
    affine = affine if mapped else None
    joined, after = WAYS[way](x, affine, table, blocks)
    want, want_after = expected(active, x, affine, table)
    count = int(active.sum())
    tolerance = {"rtol": 1e-2, "atol": 1e-2}  # one step of bfloat16
    np.testing.assert_allclose(np.asarray(after, np.float32), want_after, **tolerance)
    if count:
        np.testing.assert_allclose(np.asarray(joined[:count], np.float32), want, **tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("channels", [16, 128, 256])
def test_compiled_on_a_gpu(channels):
    _, blocks, x, affine, table = problem(16, 4, 2, channels, 0.6)
    border = xla.border_of(blocks.neighbours, 16)
    got = jax.jit(join_blocks)(x, affine, table, blocks.block_index, blocks.neighbours, border)
    want = WAYS["xla"](x, affine, table, blocks)
    count = int((blocks.block_index < len(table)).sum())
    for a, b, rows in zip(got, want, (count, len(table)), strict=True):
        a, b = (np.asarray(part[:rows], np.float32) for part in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("change", "target", "reason"),
    [
        ({}, Target("cpu"), "NVIDIA GPU"),
        ({}, Target("gpu", (7, 5)), "7.5"),
        ({"dtype": jnp.dtype(jnp.float32)}, HOPPER, "float32"),
        ({"channels": 192}, HOPPER, "192"),
        ({"frames": 1}, HOPPER, "1 to 1 frames"),
    ],
)
def test_the_kernel_where_it_can_else_the_reference(change, target, reason):
    assert first_supported(IMPLEMENTATIONS, JOIN, HOPPER) == ("pallas_triton", {})
    name, refused = first_supported(IMPLEMENTATIONS, Join(**(vars(JOIN) | change)), target)
    assert name == "xla" and reason in refused["pallas_triton"]


@pytest.mark.usefixtures("abstract_h200")
@pytest.mark.parametrize(("size", "past", "channels"), [(16, 2, 128), (8, 2, 512), (16, 1, 256)])
def test_the_kernel_lowers_for_an_abstract_h200(size, past, channels):
    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(sizes, dtype)

    affine = Affine(*(shape(4, channels, dtype=jnp.float32) for _ in range(3)))
    table = shape(3600, past, size + 2, size + 2, channels)
    place, around = (shape(2304, *more, dtype=jnp.int32) for more in ((), (9,)))
    traced = jax.jit(pallas_triton.join_blocks).trace(
        shape(2304, 4, size, size, channels), affine, table, place, around
    )
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call") == 1
