"""The learned query against a loop over samples in plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import DIT_CONFIG

from skipsr_jax.models.discriminator.query_head import QueryHead
from skipsr_jax.models.params import abstract, bind, to_dict
from skipsr_jax.tokens.plan import build_plan

QUICK = {"xla_backend_optimization_level": 0}
"""Compiling takes most of the time here, running next to none."""

HALF = jnp.bfloat16


def build(config, dtype=jnp.float32):
    return lambda rngs: QueryHead(config, rngs=rngs, dtype=dtype, param_dtype=jnp.float32)


def rms(x, scale=1.0):
    return x / np.sqrt(np.mean(np.square(x), -1, keepdims=True) + DIT_CONFIG.norm_eps) * scale


def by_hand(params, tokens, config):
    """The head on the tokens (kept, d) of one sample."""
    p = jax.tree.map(np.asarray, params)
    heads, size = config.heads, config.head_dim
    query = p["query"]
    q = rms(query, p["query_norm"]["scale"]) @ p["to_q"]["kernel"]
    kv = rms(tokens, p["token_norm"]["scale"]) @ p["to_kv"]["kernel"]
    k, v = np.split(kv.reshape(-1, 2 * heads, size), 2, axis=1)
    q = rms(q.reshape(heads, size), p["norm_q"]["scale"])
    scores = np.einsum("ap,nap->an", q, rms(k, p["norm_k"]["scale"])) * size**-0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    pooled = np.einsum("an,nap->ap", weights, v).reshape(-1)
    x = query + pooled @ p["proj_out"]["kernel"] + p["proj_out"]["bias"]
    y = rms(x, p["mlp_norm"]["scale"])
    gate = y @ p["mlp"]["proj_in_gate"]["kernel"]
    inner = gate / (1 + np.exp(-gate)) * (y @ p["mlp"]["proj_in"]["kernel"])
    return x + inner @ p["mlp"]["proj_out"]["kernel"]


@pytest.fixture(scope="module")
def case():
    module, rng = abstract(build(DIT_CONFIG)), np.random.default_rng(0)

    def draw(x):
        mean, spread = (1.0, 0.3) if x.ndim == 1 else (0.0, x.shape[0] ** -0.5)
        return rng.normal(mean, spread, x.shape).astype(np.float32)

    params = jax.tree.map(draw, to_dict(module))
    keep = [rng.random((2, 3, 4)) < 0.6, rng.random((1, 3, 5)) < 0.5]
    plan = build_plan(keep, [3, 2])
    tokens = rng.normal(size=(*plan.sample.shape, DIT_CONFIG.width)).astype(np.float32)
    run = jax.jit(lambda p, x, plan: bind(module, p)(x, plan), compiler_options=QUICK)
    slope = jax.grad(lambda x, p, plan: bind(module, p)(x, plan).sum())
    return run, jax.jit(slope, compiler_options=QUICK), params, tokens, plan


def test_each_sample_gets_what_its_own_kept_tokens_say(case):
    run, _, params, tokens, plan = case
    poisoned = np.where(plan.valid[..., None], tokens, np.nan)
    assert np.isnan(poisoned).any()
    found = run(params, poisoned, plan)
    for sample in range(2):
        own = tokens[plan.valid & (plan.sample == sample)]
        np.testing.assert_allclose(found[0, sample], by_hand(params, own, DIT_CONFIG), atol=1e-5)


def test_a_sample_without_tokens_has_the_query_alone_and_finite_gradients(case):
    run, slope, params, tokens, plan = case
    empty = plan._replace(patch_index=np.where(plan.sample == 1, -1, plan.patch_index))
    found = run(params, tokens, empty)
    nothing = np.zeros_like(tokens)  # values are linear in the tokens, so none contributes
    np.testing.assert_allclose(found[0, 1], run(params, nothing, plan)[0, 1], atol=1e-5)
    grads = np.asarray(slope(tokens, params, empty))
    assert np.isfinite(grads).all() and np.all(grads[~empty.valid] == 0)
    assert np.all(np.abs(grads[empty.valid]).max(-1) > 0)


def test_bfloat16_stays_close(case):
    run, _, params, tokens, plan = case
    module = abstract(build(DIT_CONFIG, HALF))
    half = jax.jit(lambda p, x, plan: bind(module, p)(x, plan), compiler_options=QUICK)
    low = half(params, tokens.astype(HALF), plan)
    full = run(params, tokens, plan)
    assert low.dtype == jnp.float32
    assert np.linalg.norm(full - low) < 2e-2 * np.linalg.norm(full)
