"""Sparse decoding equals dense decoding on active superblocks, and shows the input elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np

from skipsr_jax.models.light_coder import LightCoder, LightCoderConfig
from skipsr_jax.models.light_coder.sparse_decode import decode_sparse_clip, sparse_decode_step
from skipsr_jax.models.vae.slices import decode_clip, decode_step
from skipsr_jax.tokens.superblocks import active_superblocks, plan_superblocks

CONFIG = LightCoderConfig(
    encoder_channels=(4, 4, 4),
    encoder_blocks=(1, 1, 1),
    decoder_channels=(4, 6, 8),
    decoder_blocks=(2, 1, 1),
)


def test_active_superblocks_are_those_of_the_dense_decoder(fill):
    """Of a frame whose sides superblocks do not divide; active ones differ from frame to frame."""
    coder, params = fill(lambda rngs: LightCoder(CONFIG, rngs=rngs))
    rng = np.random.default_rng(0)
    # Three slices: the first and the last, which is shorter than the second, run densely.
    grid, lengths, frames = (4, 9, 6), [1, 2, 1], [1, 8, 4]
    keep = np.zeros(grid, bool)
    keep[1, 2, 2] = keep[1, 0, 5] = keep[2, 8, 5] = True
    z = rng.normal(size=(1, 4, 18, 12, 16)).astype(np.float32)
    upscaled = rng.normal(size=(1, 13, 144, 96, 3)).astype(np.float32)
    latents = jnp.split(z, np.cumsum(lengths)[:-1], axis=1)
    inputs = np.split(upscaled, np.cumsum(frames)[:-1], axis=1)
    dense, sparse = decode_step(coder), sparse_decode_step(coder)
    whole = np.concatenate(list(decode_clip(dense, params, latents, inputs)), axis=1)
    plan = plan_superblocks(keep, lengths, slots=4)
    made = decode_sparse_clip(dense, sparse, params, latents, inputs, plan)
    made = np.concatenate(list(made), axis=1)

    active = active_superblocks(keep)
    assert active.sum() == 3
    active[0] = active[3] = True
    of_frames = np.repeat(active, [1, 4, 4, 4], axis=0)
    shown = np.kron(of_frames, np.ones((1, 64, 64), bool))[None, :, :144, :96]
    assert np.abs(whole - upscaled)[shown].mean() > 0.01
    np.testing.assert_allclose(made[shown], whole[shown], atol=1e-5)
    np.testing.assert_array_equal(made[~shown], upscaled[~shown])


def test_every_number_of_slots_is_one_program(fill):
    coder, params = fill(lambda rngs: LightCoder(CONFIG, rngs=rngs))
    shapes = [
        jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1, 1, 8, 8, 16), (1, 1, 64, 64, 3))
    ]
    dense = decode_step(coder)
    _, cache = jax.eval_shape(dense, params, shapes[0], None, shapes[1])
    keep = np.zeros((2, 4, 4), bool)
    keep[1, 0, 0] = True
    (_, blocks), (_, other) = (plan_superblocks(mask, [1, 1]) for mask in (keep, ~keep))
    step, frames = sparse_decode_step(coder), jax.ShapeDtypeStruct((1, 4, 64, 64, 3), np.float32)
    texts = {
        step.lower(params, shapes[0], cache, frames, part).as_text() for part in (blocks, other)
    }
    assert len(texts) == 1
