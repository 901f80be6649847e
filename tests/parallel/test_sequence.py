"""Sequence parallelism gives the numbers of one device, with all-to-alls alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hlo import collectives

from skipsr_jax.errors import UserError
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import abstract, bind, to_dict
from skipsr_jax.parallel.activations import activation_sharding
from skipsr_jax.parallel.mesh import make_mesh, pack_sharding, replicated
from skipsr_jax.parallel.overlapped_attention import attend_by_heads, exchange, head_chunks
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.parallel.sequence import Attention, attend_by_packs, attend_by_windows
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import build_plan, stack_plans

QUICK = {"xla_backend_optimization_level": 0}
BUCKET, WIDTH = Bucket(320, 16), 40
TEXT_ROWS = 3
SHARED = DiTConfig(
    width=WIDTH, text_width=12, heads=8, head_dim=12, layers=2, mm_layers=0, expand_ratio=2,
    gated_mlp=True, pixel_rope=False, rope_dim=12, output_modulation=False, plain_text_at_last=True,
)  # fmt: skip


def inputs(number, grids=((2, 6, 8), (1, 4, 4)), lengths=(3, 2), shards=1):
    """Tokens, text, timesteps and plans of ``number`` packs of two samples, 40% skipped."""
    rng = np.random.default_rng(0)
    masks = [[rng.random(grid) < 0.6 for grid in grids] for _ in range(number)]
    plan = stack_plans([build_plan(keep, lengths, BUCKET, shards=shards) for keep in masks])
    patches = rng.normal(size=(number, BUCKET.tokens, 132)).astype(np.float32)
    text = rng.normal(size=(number, len(grids) * max(lengths), 12)).astype(np.float32)
    timestep = np.tile(np.float32([[1000, 300]]), (number, 1))
    return patches, text, timestep, plan


def run_on(mesh, sharding, function, params, args):
    """What ``function`` gives on a mesh, and its compiled form."""
    with jax.set_mesh(mesh):
        params = jax.device_put(params, shardings(params, mesh))
        args = jax.device_put(args, sharding(mesh))
        program = jax.jit(function).lower(params, *args).compile(QUICK)
        return jax.device_get(program(params, *args)), program


def one_device():
    return make_mesh(1, 1, 1, devices=jax.devices()[:1])


@pytest.mark.slow
def test_one_clip_uses_every_device():
    """Inference: one pack on a mesh of data, fsdp and seq is sharded over all of them."""
    model = abstract(lambda rngs: DiT(SHARED, rngs=rngs))
    params = to_dict(DiT(SHARED, rngs=nnx.Rngs(1)))
    args = inputs(1)
    mesh = make_mesh(2, 2, 2)

    def forward(params, *args):
        return bind(model, params)(*args)

    want, _ = run_on(one_device(), replicated, forward, params, args)
    got, program = run_on(mesh, replicated, forward, params, args)
    valid = args[3].valid
    np.testing.assert_allclose(got[valid], want[valid], atol=2e-5)
    with jax.set_mesh(mesh):
        assert activation_sharding(1).shards == 8
    tokens = BUCKET.tokens
    sizes = {c.elements for c in collectives(program) if c.kind == "all-gather"}
    assert max(sizes) < tokens * WIDTH
    assert (1, 3, 1, tokens // 8, 1, 12) in {
        shape for c in collectives(program) if c.kind == "all-to-all" for shape in c.shapes
    }


@pytest.mark.slow
def test_whole_windows_are_attended_where_they_lie():
    """Numbers and gradients of one device; only the shifted layer exchanges tokens for heads."""
    model = abstract(lambda rngs: DiT(SHARED, rngs=rngs))
    params = to_dict(DiT(SHARED, rngs=nnx.Rngs(1)))
    *arrays, plan = inputs(2, grids=((9, 4, 5), (7, 3, 4)), shards=4)
    assert plan.shard_layouts is not None
    uncut, mesh = plan._replace(shard_layouts=None), make_mesh(2, 1, 4)

    def forward(params, *args):
        return bind(model, params)(*args)

    def loss(params, *args):
        velocity = forward(params, *args)
        return jnp.sum(jnp.sin(velocity) * args[3].valid[..., None]), velocity

    step = jax.value_and_grad(loss, has_aux=True)
    ((_, want), wanted), _ = run_on(one_device(), replicated, step, params, (*arrays, uncut))
    ((_, got), gradients), _ = run_on(mesh, pack_sharding, step, params, (*arrays, plan))
    np.testing.assert_allclose(got[plan.valid], want[plan.valid], atol=2e-5)
    for a, b in zip(jax.tree.leaves(gradients), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * max(1, np.abs(b).max()))

    def exchanges(plan):
        _, program = run_on(mesh, pack_sharding, forward, params, (*arrays, plan))
        return sum(c.kind == "all-to-all" for c in collectives(program))

    assert exchanges(plan) == exchanges(uncut) > 0  # in a step of two layers as in a step of one


def recording_attention(shapes):
    """For each head the mean of all tokens' values plus a mark of the pack; records the shapes."""

    def attend(video, text, layout):
        shapes.append((video[0].shape, text[0].shape))
        mean = video[2].mean(axis=1, keepdims=True) + layout[:, None, None, None]
        return jnp.concatenate([video[0] + mean, text[1] + mean], axis=1)

    def collect(rows, layout):
        return rows[:, :-TEXT_ROWS], rows[:, -TEXT_ROWS:]

    return Attention(attend, collect)


def attend_in_chunks(attention, video, text, layout):
    """Attention of all heads over the devices that share a pack, chunk after chunk."""
    chunks = [
        exchange(chunk.by_shard(tuple(map(chunk.select, video))))
        for chunk in head_chunks(len(video[0]), video[0].shape[2])
    ]
    return attend_by_heads(attention, chunks, text, layout)


@pytest.mark.parametrize(
    ("sizes", "run"),
    [((8, 1, 1), attend_by_packs), ((2, 2, 2), attend_in_chunks), ((1, 1, 8), attend_in_chunks)],
)
def test_attention_sees_all_tokens_of_its_own_heads(sizes, run):
    rng = np.random.default_rng(0)
    video = tuple(rng.normal(size=(3, 8, 16, 8, 4)).astype(np.float32))
    text = tuple(rng.normal(size=(3, 8, TEXT_ROWS, 8, 4)).astype(np.float32))
    layout = np.arange(8, dtype=np.float32)
    want = recording_attention([])(*jax.tree.map(jnp.asarray, (video, text, layout)))
    shapes = []
    with jax.set_mesh(make_mesh(*sizes)):
        run = jax.jit(functools.partial(run, recording_attention(shapes)))
        got = run(video, text, layout)
    packs_here, heads_here = 8 // (sizes[0] * sizes[1]), 8 // sizes[2]
    chunks = 2 if sizes[2] == 2 else 1
    chunk_heads = heads_here // chunks
    chunk = (packs_here, 16, chunk_heads, 4), (packs_here, TEXT_ROWS, chunk_heads, 4)
    assert shapes == [chunk] * chunks
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_windows_assigned_to_other_devices_are_refused():
    video, text = (tuple(jnp.zeros((3, 1, n, 8, 4))) for n in (16, TEXT_ROWS))
    with jax.set_mesh(make_mesh(1, 1, 8)), pytest.raises(ValueError, match="assigned to 2 devices"):
        attend_by_windows(recording_attention([]), video, text, jnp.zeros((1, 2)))


@pytest.mark.parametrize(
    ("heads", "tokens", "says"),
    [
        (20, 16, "20 heads do not divide over a mesh of 8"),
        (8, 20, "20 tokens do not divide"),
    ],
)
def test_what_does_not_divide_is_named(heads, tokens, says):
    video, text = (tuple(jnp.zeros((3, 1, n, heads, 4))) for n in (tokens, TEXT_ROWS))
    with jax.set_mesh(make_mesh(1, 1, 8)), pytest.raises(UserError, match=says):
        attend_in_chunks(recording_attention([]), video, text, jnp.zeros(1))
