"""Counted operations against the counts published for the official networks, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from skipsr_jax.models.dit import SEEDVR2_3B, TINY
from skipsr_jax.models.flops import dit_flops, traced_flops, vae_flops
from skipsr_jax.models.params import abstract
from skipsr_jax.models.vae import SEEDVR, VAE
from skipsr_jax.tokens.plan import build_plan

TEXT = 58
# (tokens along time, height, width): linear layers and windowed attention in TFLOP, as counted for
# the official SeedVR2-3B in torch with the same text (shared/BASELINE.md, section 1).
OFFICIAL_3B = {
    (26, 45, 80): ("475", "71"),
    (6, 45, 80): ("110", "5.4"),
    (26, 67, 120): ("1061", "165"),
    (1, 45, 80): ("18.6", "0.6"),
}
# Autoencoder, 21 frames of 720p: encode and decode in TFLOP, same source.
OFFICIAL_VAE = (178, 463)


def agrees(flops, printed):
    """Whether a number rounds to the printed one."""
    digits = len(printed.partition(".")[2])
    return abs(flops / 1e12 - float(printed)) <= 0.51 * 10**-digits


@pytest.mark.parametrize("grid", OFFICIAL_3B, ids=str)
def test_the_transformer_counts_as_the_official_one(grid):
    found = dit_flops(SEEDVR2_3B, build_plan([np.ones(grid, bool)], [TEXT]))
    linear, attention = OFFICIAL_3B[grid]
    assert agrees(found.linear, linear), found
    assert agrees(found.attention, attention), found


def test_skipped_tokens_and_padding_count_nothing():
    keep = np.zeros((3, 8, 8), bool)
    keep[:, :4] = True
    half, whole = (build_plan([mask], [4]) for mask in (keep, np.ones_like(keep)))
    a, b = dit_flops(TINY, half), dit_flops(TINY, whole)
    assert 0.49 < a.linear / b.linear < 0.55 and a.attention < 0.55 * b.attention
    bucket = build_plan([np.ones((3, 16, 16), bool)], [4]).valid.shape[1]
    assert half.valid.shape[1] < bucket
    one_more = build_plan([keep, keep], [4, 4])
    assert dit_flops(TINY, one_more).total == pytest.approx(2 * a.total)


def test_the_autoencoder_counts_as_the_official_one():
    vae = abstract(lambda rngs: VAE(SEEDVR, rngs=rngs))
    encode, decode = vae_flops(vae, (1, 21, 720, 1280))
    assert encode / 1e12 == pytest.approx(OFFICIAL_VAE[0], rel=0.01)
    # Of the official 27 + 1 products of channels for each new pixel, merged upsamplings need 8 or
    # 12 (skipsr_jax.models.vae.upsample): small frames, pixels, channels, new pixels of each, fewer
    levels = (
        (6, 90 * 160, 512, 8, 28 - 8),
        (11, 180 * 320, 512, 8, 28 - 8),
        (21, 360 * 640, 256, 4, 28 - 12),
    )
    spared = sum(2.0 * f * p * c * c * new * fewer for f, p, c, new, fewer in levels)
    assert decode == pytest.approx(OFFICIAL_VAE[1] * 1e12 - spared, rel=0.01)


def test_traced_programs_count_through_loops_and_branches():
    x = jnp.ones((4, 8))

    def steps(x):
        x, _ = jax.lax.scan(lambda c, _: (jnp.tanh(c @ jnp.ones((8, 8))), None), x, length=5)
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ jnp.ones((8, 2)), lambda: x[:, :2])

    assert traced_flops(steps, x) == 5 * 2 * 4 * 8 * 8 + 2 * 4 * 8 * 2
    kernel = jnp.ones((3, 3, 2, 7))
    pictures = jax.ShapeDtypeStruct((1, 5, 6, 2), jnp.float32)
    dims = ("NHWC", "HWIO", "NHWC")

    def convolve(x):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)

    assert traced_flops(jax.jit(convolve), pictures) == 2 * 5 * 6 * 7 * 9 * 2
    with pytest.raises(ValueError, match="unknown length"):
        traced_flops(lambda x: jax.lax.while_loop(lambda v: v < 3, lambda v: v + 1, x), 0)


def test_a_pallas_kernel_beside_what_is_counted():
    def square(x, y):
        y[...] = x[...] @ x[...]
        triton.debug_barrier()  # has no result

    def run(x):
        return pl.pallas_call(square, out_shape=x)(x) @ x

    assert traced_flops(run, jax.ShapeDtypeStruct((8, 8), jnp.float32)) == 2 * 8**3
