"""A transformer whose queries, keys and values go to windows by one kernel, and by single steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from skipsr_jax.kernels import qkv_windows
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import abstract, bind, flatten, to_dict
from skipsr_jax.tokens.buckets import Bucket
from skipsr_jax.tokens.plan import build_plan, stack_plans

CONFIG = DiTConfig(
    width=32, text_width=12, heads=2, head_dim=16, layers=2, mm_layers=1, expand_ratio=2,
    gated_mlp=True, pixel_rope=False, rope_dim=16, output_modulation=False, plain_text_at_last=True,
)  # fmt: skip
BUCKET = Bucket(128, 16)


def test_the_kernel_changes_neither_results_nor_gradients(monkeypatch):
    model = abstract(lambda rngs: DiT(CONFIG, rngs=rngs))
    params, rng = to_dict(DiT(CONFIG, rngs=nnx.Rngs(0))), np.random.default_rng(3)
    masks = [rng.random((2, 6, 8)) < 0.7 for _ in range(2)]
    plan = stack_plans([build_plan([keep], [3], BUCKET) for keep in masks])
    patches, text = (rng.normal(size=size) for size in ((2, BUCKET.tokens, 132), (2, 3, 12)))
    timestep = np.full((2, 1), 500, np.float32)
    args = patches.astype(np.float32), text.astype(np.float32), timestep, plan
    args = jax.tree.map(jnp.asarray, args)
    valid = plan.valid[..., None]

    def run():
        def loss(params):
            out = bind(model, params)(*args)
            return jnp.sum(jnp.where(valid, out, 0) ** 2)

        return jax.jit(lambda params: bind(model, params)(*args))(params), jax.jit(jax.grad(loss))(
            params
        )

    wanted, wanted_gradients = run()
    calls = []
    for name in ("to_windows", "from_windows"):
        kernel = getattr(qkv_windows, name)

        def interpreted(*args, kernel=kernel, name=name):
            calls.append(name)
            return functools.partial(kernel, interpret=True)(*args)

        monkeypatch.setattr(qkv_windows, name, interpreted)
    monkeypatch.setattr(qkv_windows, "supported", lambda problem, target: None)
    found, gradients = run()
    assert set(calls) == {"to_windows", "from_windows"}
    np.testing.assert_allclose(
        np.where(valid, found, 0), np.where(valid, wanted, 0), atol=1e-5, rtol=1e-5
    )
    flat, wanted_flat = map(flatten, (gradients, wanted_gradients))
    for path, want in wanted_flat.items():
        if path.endswith("rope_freqs"):  # never trained: the kernel gives no gradient of angles
            continue
        scale = np.abs(want).max() + 1e-3
        np.testing.assert_allclose(flat[path] / scale, want / scale, atol=2e-5, err_msg=path)
