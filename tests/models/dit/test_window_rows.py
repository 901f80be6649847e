"""Rows in attention order: whose token each is, and gradients that are the other direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.models.dit.window_rows import from_windows, to_windows
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
