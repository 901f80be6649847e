"""The parameters that training of a one-step transformer begins with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.diffusion.schedule import TERMINAL, clean_from_velocity
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import abstract, bind, flatten, to_dict
from skipsr_jax.tokens.patches import patchify
from skipsr_jax.tokens.plan import build_plan
from skipsr_jax.training.transformer import bind_trained, start_from_condition

CONFIG = DiTConfig(
    width=64, text_width=8, heads=2, head_dim=32, layers=2, mm_layers=1, expand_ratio=2,
    gated_mlp=True, pixel_rope=False, rope_dim=32, output_modulation=False, plain_text_at_last=True,
)  # fmt: skip


def test_the_first_one_step_result_is_the_condition():
    random = to_dict(DiT(CONFIG, rngs=nnx.Rngs(0)))
    module = abstract(lambda rngs: DiT(CONFIG, rngs=rngs))
    plan = build_plan([np.random.default_rng(0).random((2, 3, 4)) < 0.7], [3])
    rng = np.random.default_rng(1)
    noise, condition = rng.normal(size=(2, 1, 2, 6, 8, 16)).astype(np.float32)
    channels = np.concatenate([noise, condition, np.ones((1, 2, 6, 8, 1), np.float32)], -1)
    index = plan.patch_index[0][plan.valid[0]]
    stored = np.zeros((1, plan.patch_index.shape[1], 132), np.float32)
    stored[0, : len(index)] = np.asarray(patchify(jnp.asarray(channels)))[0, index]
    text = rng.normal(size=(1, 3, 8)).astype(np.float32)

    @jax.jit
    def clean(params):
        terminal = jnp.full((1, 1), TERMINAL)
        inputs = jax.tree.map(jnp.asarray, (stored, text, terminal, plan))
        velocity = bind(module, params)(*inputs)
        noisy = jnp.asarray(patchify(jnp.asarray(noise)))[0, index]
        return clean_from_velocity(velocity[0, : len(index)], noisy, jnp.asarray(TERMINAL))

    wanted = np.asarray(patchify(jnp.asarray(condition)))[0, index]
    np.testing.assert_allclose(clean(start_from_condition(random, CONFIG)), wanted, atol=1e-5)
    assert np.abs(clean(random) - wanted).max() > 0.5


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0), ("bfloat16", 2e-2)])
def test_gradients_of_kernels_that_were_cast_once_are_the_same(dtype, tolerance):
    params = to_dict(DiT(CONFIG, rngs=nnx.Rngs(0)))
    module = abstract(lambda rngs: DiT(CONFIG, rngs=rngs, dtype=jnp.dtype(dtype)))
    plan = build_plan([np.random.default_rng(0).random((2, 3, 4)) < 0.7], [3])
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(*plan.patch_index.shape, 132)).astype(np.float32)
    text = rng.normal(size=(1, 3, 8)).astype(np.float32)
    inputs = jax.tree.map(jnp.asarray, (tokens, text, np.full((1, 1), 500.0, np.float32), plan))

    def gradient(bound):
        def loss(params):
            out = bound(module, params)(*inputs)
            return jnp.sum(jnp.square(jnp.where(plan.valid[..., None], out, 0)))

        return flatten(jax.jit(jax.grad(loss))(params))

    each_time, once = gradient(bind), gradient(bind_trained)
    for path, expected in each_time.items():
        assert once[path].dtype == np.float32, path
        error = np.linalg.norm(once[path] - expected)
        assert error <= tolerance * np.linalg.norm(expected), path
    kernels = flatten(to_dict(bind_trained(module, params)))
    assert {str(x.dtype) for path, x in kernels.items() if path.endswith("/kernel")} == {dtype}
