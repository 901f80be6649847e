"""The transformer: padding, packing, compilation, rematerialisation, dtypes and scopes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models import params as param_dicts
from skipsr_jax.models.dit import REMAT_POLICIES, SEEDVR2_3B, SEEDVR_7B, DiT, DiTConfig
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import build_plan, stack_plans

SHARED_STYLE = DiTConfig(
    width=32, text_width=12, heads=2, head_dim=16, layers=4, mm_layers=2, expand_ratio=4,
    gated_mlp=True, pixel_rope=False, rope_dim=16, output_modulation=True, plain_text_at_last=True,
)  # fmt: skip
SEPARATE_STYLE = dataclasses.replace(
    SHARED_STYLE, layers=3, mm_layers=3, gated_mlp=False, pixel_rope=True, rope_dim=12,
    output_modulation=False, plain_text_at_last=False,
)  # fmt: skip
STYLES = pytest.mark.parametrize(
    "config",
    [
        pytest.param(SHARED_STYLE, id="shared"),
        pytest.param(SEPARATE_STYLE, id="separate", marks=pytest.mark.slow),
    ],
)


def build(config, seed=0):
    model = param_dicts.abstract(lambda rngs: DiT(config, rngs=rngs))
    params = param_dicts.to_dict(DiT(config, rngs=nnx.Rngs(seed)))
    return model, params


def forward(model):
    return jax.jit(lambda params, *args: param_dicts.bind(model, params)(*args))


def inputs(seed, patches, text, plan):
    """Tokens of a plan out of all patches of its pack."""
    index = plan.patch_index[0]
    stored = np.where((index >= 0)[:, None], patches[np.maximum(index, 0)], 0)
    samples = plan.text_length.shape[1]
    timestep = np.linspace(1000, 250, samples)[None].astype(np.float32)
    return stored[None].astype(np.float32), text, timestep, plan


def random_sample(seed, grid, text_rows, text_width=12):
    rng = np.random.default_rng(seed)
    patches = rng.normal(size=(int(np.prod(grid)), 132)).astype(np.float32)
    text = rng.normal(size=(1, text_rows, text_width)).astype(np.float32)
    return patches, text


def by_patch(out, plan, total):
    index = plan.patch_index[0]
    full = np.full((total, out.shape[-1]), np.nan, np.float32)
    full[index[index >= 0]] = np.asarray(out)[0][index >= 0]
    return full


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(SEEDVR2_3B, 3_391_475_776), (SEEDVR_7B, 8_239_607_872)],
    ids=["3b", "7b"],
)
def test_published_sizes_have_the_published_number_of_parameters(config, parameters):
    model = param_dicts.abstract(lambda rngs: DiT(config, rngs=rngs))
    flat = param_dicts.flatten(param_dicts.to_dict(model))
    trained = {path: x for path, x in flat.items() if not path.endswith("rope_freqs")}
    assert sum(x.size for x in trained.values()) == parameters


@STYLES
def test_a_larger_bucket_changes_nothing(config):
    model, params = build(config)
    patches, text = random_sample(0, (2, 9, 11), 3)
    keep = np.random.default_rng(1).random((2, 9, 11)) < 0.6
    run = forward(model)
    small = build_plan([keep], [3])
    large = build_plan([keep], [3], Bucket(512, 64), text_slots=5)
    wide_text = np.concatenate([text, np.full((1, 2, 12), 7.0, np.float32)], axis=1)
    a = by_patch(run(params, *inputs(0, patches, text, small)), small, len(patches))
    b = by_patch(run(params, *inputs(0, patches, wide_text, large)), large, len(patches))
    np.testing.assert_array_equal(np.isnan(a[:, 0]), ~keep.ravel())
    np.testing.assert_allclose(a, b, atol=2e-5)


@STYLES
def test_what_padding_holds_never_reaches_a_kept_token(config):
    model, params = build(config)
    patches, text = random_sample(0, (2, 9, 11), 3)
    plan = build_plan([np.random.default_rng(1).random((2, 9, 11)) < 0.5], [3])
    args = inputs(0, patches, text, plan)
    poisoned = np.where(plan.valid[..., None], args[0], np.nan)
    assert np.isnan(poisoned).any()
    run = forward(model)
    clean, dirty = run(params, *args), run(params, poisoned, *args[1:])
    np.testing.assert_array_equal(clean[plan.valid], dirty[plan.valid])


@STYLES
def test_packed_samples_equal_each_alone(config):
    model, params = build(config)
    grids, lengths = [(3, 5, 7), (1, 20, 36)], [2, 4]
    rng = np.random.default_rng(2)
    keep = [rng.random(grid) < 0.5 for grid in grids]
    samples = [random_sample(i, g, n) for i, (g, n) in enumerate(zip(grids, lengths, strict=True))]
    packed = build_plan(keep, lengths)
    text = np.zeros((1, 8, 12), np.float32)
    text[0, :2], text[0, 4:] = samples[0][1], samples[1][1]
    patches = np.concatenate([p for p, _ in samples])
    run = forward(model)
    args = inputs(0, patches, text, packed)
    together = by_patch(run(params, *args), packed, len(patches))
    start = 0
    for i, (own, own_text) in enumerate(samples):
        plan = build_plan([keep[i]], [lengths[i]])
        stored, _, _, _ = inputs(0, own, own_text, plan)
        alone = by_patch(run(params, stored, own_text, args[2][:, i : i + 1], plan), plan, len(own))
        np.testing.assert_allclose(together[start : start + len(own)], alone, atol=2e-5)
        start += len(own)


def test_packs_of_a_batch_do_not_meet():
    model, params = build(SHARED_STYLE)
    bucket, rng = Bucket(128, 16), np.random.default_rng(3)
    args = []
    for seed in (0, 1):
        patches, text = random_sample(seed, (2, 6, 8), 3)
        plan = build_plan([rng.random((2, 6, 8)) < 0.7], [3], bucket)
        args.append(inputs(seed, patches, text, plan))
    run = forward(model)
    batched = [np.concatenate(x) for x in zip(*[a[:3] for a in args], strict=True)]
    both = run(params, *batched, stack_plans([a[3] for a in args]))
    for i, own in enumerate(args):
        valid = own[3].valid[0]
        np.testing.assert_allclose(both[i][valid], run(params, *own)[0][valid], atol=2e-5)


def test_two_resolutions_and_two_masks_of_one_bucket_compile_once():
    model, params = build(SHARED_STYLE)
    run, bucket = forward(model), Bucket(512, 32)
    for seed, grid in enumerate([(5, 9, 16), (1, 20, 36), (5, 9, 16)]):
        patches, text = random_sample(seed, grid, 3)
        keep = np.random.default_rng(seed).random(grid) < 0.5
        run(params, *inputs(seed, patches, text, build_plan([keep], [3], bucket)))
    assert run._cache_size() == 1


def gradient_for(remat):
    """The gradient of a loss with this policy, as a function, and its argument."""
    patches, text = random_sample(0, (1, 6, 8), 3)
    plan = build_plan([np.random.default_rng(1).random((1, 6, 8)) < 0.6], [3])
    args = jax.tree.map(jnp.asarray, inputs(0, patches, text, plan))
    config = dataclasses.replace(SHARED_STYLE, layers=2, mm_layers=1, remat=remat)
    model, params = build(config)

    def loss(params):
        out = param_dicts.bind(model, params)(*args)
        return jnp.sum(jnp.square(jnp.where(plan.valid[..., None], out, 0)))

    return jax.grad(loss), params


def test_what_a_policy_stores_is_not_computed_again():
    """Counted are products: of dense layers, and of the attention kernel, which are in loops."""

    def products(remat):
        gradient, params = gradient_for(remat)
        return str(jax.make_jaxpr(gradient)(params)).count("= dot_general[")

    counts = {remat: products(remat) for remat in REMAT_POLICIES}
    blocks = 2  # one scanned with weights of its own, one shared
    assert counts["full"] - counts["attention"] == 2 * blocks  # scores, and their use
    dense = 10  # queries to values, output, three of the MLP: of video and of text
    assert counts["attention"] - counts["dots"] == dense * blocks
    outputs = 4  # the output projection, and the last product of the MLP
    assert counts["attention"] - counts["outputs"] == outputs * blocks
    assert counts["dots"] - counts["none"] == blocks  # the sum of a text over its windows


@pytest.mark.slow
@pytest.mark.parametrize("remat", sorted(set(REMAT_POLICIES) - {"none"}))
def test_rematerialising_changes_no_gradient(remat):
    (plain, params), (again, _) = gradient_for("none"), gradient_for(remat)
    plain, again = jax.jit(plain)(params), jax.jit(again)(params)
    for a, b in zip(*map(jax.tree.leaves, (plain, again)), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(a) + 1e-6
    assert np.abs(plain["mm_blocks"]["txt"]["qkv"]["kernel"]).max() > 0


def test_bfloat16_stays_close_to_float32():
    model, params = build(SHARED_STYLE)
    half = param_dicts.abstract(lambda rngs: DiT(SHARED_STYLE, rngs=rngs, dtype=jnp.bfloat16))
    patches, text = random_sample(0, (2, 9, 11), 3)
    plan = build_plan([np.ones((2, 9, 11), bool)], [3])
    args = inputs(0, patches, text, plan)
    full, low = forward(model)(params, *args), forward(half)(params, *args)
    full, low = full[plan.valid], low[plan.valid]
    assert np.linalg.norm(full - low) < 2e-2 * np.linalg.norm(full)


def test_a_profile_names_the_sub_layers():
    model, params = build(dataclasses.replace(SHARED_STYLE, layers=1, mm_layers=1))
    patches, text = random_sample(0, (1, 6, 8), 3)
    plan = build_plan([np.ones((1, 6, 8), bool)], [3])
    program = forward(model).lower(params, *inputs(0, patches, text, plan))
    names = program.as_text(debug_info=True)
    block = ("modulation", "qkv", "qk_norm", "rope", "attention", "proj_out", "mlp")
    for name in ("embed", "mm_blocks", *block, "out"):
        assert f"/{name}/" in names, name


def test_impossible_configurations_are_refused():
    with pytest.raises(ValueError, match=r"mm_layers must lie in 0\.\.layers"):
        dataclasses.replace(SHARED_STYLE, mm_layers=9)
    with pytest.raises(ValueError, match=r"remat is .some.: it must be one of"):
        dataclasses.replace(SHARED_STYLE, remat="some")
