"""Rows in attention order: whose token each is, and gradients that are the other direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.models.dit.window_rows import (
    from_merged_windows,
    from_windows,
    to_merged_windows,
    to_windows,
)
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import build_plan, stack_plans

LENGTHS, HEADS, WIDTH = (3, 2), 2, 4
BUCKET = Bucket(64, 8)


@pytest.fixture(scope="module", params=[0, 1], ids=["regular", "shifted"])
def layout(request):
    """Two packs of two clips each, with more capacity than tokens and windows."""
    rng = np.random.default_rng(0)
    masks = [[rng.random(grid) < 0.6 for grid in ((2, 4, 5), (1, 3, 4))] for _ in range(2)]
    plan = stack_plans([build_plan(keep, LENGTHS, BUCKET) for keep in masks])
    return jax.tree.map(lambda a: jnp.asarray(a[:, request.param]), plan.layout)


@pytest.fixture(scope="module")
def tokens():
    rng = np.random.default_rng(1)
    sizes = (BUCKET.tokens, len(LENGTHS) * max(LENGTHS))
    return tuple(jnp.asarray(rng.normal(size=(2, n, HEADS, WIDTH)), jnp.float32) for n in sizes)


def plainly(video, text, layout):
    """``to_windows`` as one gather from all rows."""
    rows = jnp.concatenate([video, text], axis=1)
    index = layout.gather[..., None, None]
    return jnp.take_along_axis(rows, index, axis=1, mode="fill", fill_value=0)


def test_rows_are_the_tokens_of_each_window_and_its_text(layout, tokens):
    rows = to_windows(*tokens, layout)
    np.testing.assert_array_equal(rows, plainly(*tokens, layout))
    assert (np.abs(rows).sum(axis=(2, 3)) == 0).any()  # padding rows are zero


def test_the_way_back(layout, tokens):
    """Each token once, each text token as often as its sample has windows."""
    video, text = from_windows(to_windows(*tokens, layout), layout)
    real = np.asarray(layout.video_rows) < layout.gather.shape[1]
    np.testing.assert_array_equal(video, np.where(real[..., None, None], tokens[0], 0))
    windows = np.asarray((layout.text_weight > 0).sum(axis=2))
    slots = np.arange(max(LENGTHS)) < np.asarray(LENGTHS)[:, None]  # (sample, slot)
    times = (windows[:, :, None] * slots).reshape(2, -1, 1, 1)
    assert times.max() > 1
    np.testing.assert_allclose(text, tokens[1] * times, rtol=1e-6)


def test_gradients_are_those_of_the_plain_gather(layout, tokens):
    weights = np.random.default_rng(2).normal(size=(2, layout.gather.shape[1], HEADS, WIDTH))
    weights = jnp.asarray(weights, jnp.float32)

    def loss(make):
        return jax.grad(lambda pair: jnp.vdot(make(*pair, layout), weights))(tokens)

    for got, want in zip(loss(to_windows), loss(plainly), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)

    def back(rows):
        video, text = from_windows(rows, layout)
        return jnp.vdot(video, tokens[0]) + jnp.vdot(text, tokens[1])

    real = np.asarray(layout.gather) < BUCKET.tokens + tokens[1].shape[1]
    want = np.where(real[..., None, None], plainly(*tokens, layout), 0)
    np.testing.assert_allclose(jax.grad(back)(weights), want, atol=1e-5)


def merged(x):
    return x.reshape(*x.shape[:2], -1)


@pytest.mark.parametrize("more", [0, 5])
def test_merged_heads_are_gathered_as_heads_are(layout, tokens, more):
    """At all rows but padding, with as many rows as the layout has, and with more."""
    rows = layout.gather.shape[1] + more
    got = to_merged_windows(*map(merged, tokens), layout, rows)
    want = merged(to_windows(*tokens, layout))
    real = np.asarray(layout.gather) < BUCKET.tokens + tokens[1].shape[1]
    assert got.shape[1] == rows and np.isfinite(got).all()
    np.testing.assert_array_equal(got[:, : rows - more][real], want[real])
    # Attention gives zeros there, and the rows of missing text slots point to the first of them.
    video, text = from_merged_windows(got.at[:, rows - more :].set(0), layout)
    wanted_video, wanted_text = from_windows(to_windows(*tokens, layout), layout)
    real = np.asarray(layout.video_rows) < rows - more
    np.testing.assert_array_equal(video[real], merged(wanted_video)[real])
    np.testing.assert_allclose(text, merged(wanted_text), rtol=1e-6)


def test_gradients_of_merged_heads_are_those_of_heads(layout, tokens):
    """With no weight on padding, which attention gives no gradient."""
    rng = np.random.default_rng(3)
    rows = layout.gather.shape[1]
    real = np.asarray(layout.gather) < BUCKET.tokens + tokens[1].shape[1]
    weights = jnp.asarray(rng.normal(size=(2, rows, HEADS, WIDTH)) * real[..., None, None])
    back = [jnp.asarray(rng.normal(size=x.shape), jnp.float32) for x in tokens]
    kept = jnp.asarray(np.asarray(layout.video_rows) < rows)[..., None, None]
    back[0] = back[0] * kept

    def loss(pair):
        taken = to_windows(*pair, layout)
        video, text = from_windows(taken * weights, layout)
        return jnp.vdot(video, back[0]) + jnp.vdot(text, back[1])

    def merged_loss(pair):
        taken = to_merged_windows(*map(merged, pair), layout, rows)
        video, text = from_merged_windows(taken * merged(weights), layout)
        return jnp.vdot(video, merged(back[0])) + jnp.vdot(text, merged(back[1]))

    for got, want in zip(jax.grad(merged_loss)(tokens), jax.grad(loss)(tokens), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)
