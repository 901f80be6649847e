"""The block's attention against a dense one written from the rules, window by window."""

import jax
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models import params as param_dicts
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.tokens.plan import build_plan
from skipsr_jax.tokens.windows import window_boxes

GRID, TEXT = (5, 18, 25), 3
CONFIG = DiTConfig(
    width=12, text_width=12, heads=2, head_dim=12, layers=2, mm_layers=2, expand_ratio=4,
    gated_mlp=True, pixel_rope=False, rope_dim=12, output_modulation=False,
    plain_text_at_last=False,
)  # fmt: skip


def rms(x):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-5)


def rotated(x, positions, freqs):
    """x (heads, 12) at three positions: two frequencies an axis, neighbouring channels a pair."""
    out = x.copy()
    for axis in range(3):
        for i, freq in enumerate(freqs):
            c = 2 * (axis * len(freqs) + i)
            cos, sin = np.cos(positions[axis] * freq), np.sin(positions[axis] * freq)
            out[:, c] = x[:, c] * cos - x[:, c + 1] * sin
            out[:, c + 1] = x[:, c + 1] * cos + x[:, c] * sin
    return out


def heads(x, branch, emb):
    emb = emb.reshape(12, 2, 3)[:, 0]
    h = rms(x) * (emb[:, 1] + branch["attn_scale"]) + emb[:, 0] + branch["attn_shift"]
    q, k, v = (h @ branch["qkv"]["kernel"]).reshape(len(x), 3, 2, 12).transpose(1, 0, 2, 3)
    return rms(q) * branch["norm_q"]["scale"], rms(k) * branch["norm_k"]["scale"], v


def dense_attention(vid, txt, params, emb, keep, shifted):
    """Video (kept rows, in patch order) and text after attention and its residual."""
    (qv, kv, vv), (qt, kt, vt) = heads(vid, params["vid"], emb), heads(txt, params["txt"], emb)
    freqs = params["rope_freqs"]
    rank = np.full(GRID, -1)
    rank[keep] = np.arange(keep.sum())
    out_v, out_t, used = np.zeros((len(vid), 24)), np.zeros((len(txt), 24)), 0
    for t0, t1, h0, h1, w0, w1 in window_boxes(GRID, shifted):
        inside = [
            (rank[t, h, w], (TEXT + t - t0, h - h0, w - w0))
            for t in range(t0, t1) for h in range(h0, h1) for w in range(w0, w1) if keep[t, h, w]
        ]  # fmt: skip
        if not inside:
            continue
        used += 1
        rows = [r for r, _ in inside]
        text_at = [(j, j, j) for j in range(TEXT)]
        q = [rotated(qv[r], p, freqs) for r, p in inside]
        q += [rotated(qt[j], p, freqs) for j, p in enumerate(text_at)]
        k = [rotated(kv[r], p, freqs) for r, p in inside]
        k += [rotated(kt[j], p, freqs) for j, p in enumerate(text_at)]
        q, k, v = np.stack(q), np.stack(k), np.concatenate([vv[rows], vt])
        scores = np.einsum("iap,jap->aij", q, k) / np.sqrt(12)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("aij,jap->iap", weights, v).reshape(len(q), 24)
        out_v[rows] = out[: len(rows)]
        out_t += out[len(rows) :]
    gate = emb.reshape(12, 2, 3)[:, 0, 2]
    results = []
    for x, out, branch in ((vid, out_v, params["vid"]), (txt, out_t / used, params["txt"])):
        update = out @ branch["proj_out"]["kernel"] + branch["proj_out"]["bias"]
        results.append(x + update * (gate + branch["attn_gate"]))
    return results


@pytest.mark.parametrize("shifted", [0, 1])
@pytest.mark.parametrize("kept", [1.0, 0.3, 0.01])
def test_attention_equals_a_dense_one_written_window_by_window(shifted, kept):
    model = DiT(CONFIG, rngs=nnx.Rngs(0))
    params = param_dicts.to_dict(model.mm_blocks)
    rng = np.random.default_rng(1)
    keep = rng.random(GRID) < kept
    vid = rng.normal(size=(int(keep.sum()), 12))
    txt, emb = rng.normal(size=(TEXT, 12)), rng.normal(size=72)

    graphdef, state = nnx.split(model.mm_blocks)
    first = nnx.merge(graphdef, jax.tree.map(lambda a: a[0], state))
    one = jax.tree.map(lambda a: np.asarray(a[0], np.float64), params)
    for branch in (first.vid, first.txt):  # leave attention alone: no feed-forward
        branch.mlp_gate[...] = -emb.reshape(12, 2, 3)[:, 1, 2]

    plan = build_plan([keep], [TEXT])
    order = plan.patch_index[0][plan.valid[0]]
    rank = np.cumsum(keep.ravel()) - 1
    stored = np.zeros((1, plan.patch_index.shape[1], 12))
    stored[0, : len(order)] = vid[rank[order]]
    got_v, got_t = jax.jit(lambda *args: first(*args, None))(
        np.float32(stored), np.float32(txt[None]), np.float32(emb[None, None]), plan,
        np.int32(shifted), np.bool_(True),
    )  # fmt: skip
    want_v, want_t = dense_attention(vid, txt, one, emb, keep, bool(shifted))
    np.testing.assert_allclose(got_v[0, : len(order)], want_v[rank[order]], atol=2e-5)
    np.testing.assert_allclose(got_t[0], want_t, atol=2e-5)
