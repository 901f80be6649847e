"""Adapters merged into kernels: the numbers of layers and of a whole transformer, and refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.masks import blob_mask
from benchmarks.models import abstract_dit, plan_for, random_inputs
from skipsr_jax.errors import UserError
from skipsr_jax.inference.programs import velocity_step
from skipsr_jax.kernels.quantized import FORMATS, Quantized, dequantize_kernel, quantize_kernel
from skipsr_jax.models.adapter import Adapter, fresh_adapter, frozen_shapes, joined, with_adapter
from skipsr_jax.models.dit import TINY
from skipsr_jax.models.merged_adapter import merge_adapter, merged_kernel
from skipsr_jax.models.params import flatten, unflatten

CONFIG = dataclasses.replace(TINY, width=96, heads=4, head_dim=24, rope_dim=24, layers=3)
QUICK = {"xla_backend_optimization_level": 0}


def pair(stack=(3,), i=8, rank=2, o=12):
    rng = np.random.default_rng(0)
    sizes = ((*stack, i, o), (*stack, i, rank), (*stack, rank, o))
    return [rng.normal(size=size).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("stack", [(), (3,)], ids=str)
def test_a_kernel_becomes_its_sum_with_the_product_where_it_is_and_as_it_is(stack):
    kernel, a, b = pair(stack)
    want = kernel + 0.5 * a @ b
    for dtype, within in (("float32", 1e-6), ("bfloat16", 2**-8)):
        made = merged_kernel(kernel.astype(dtype), a, b, 0.5, "qkv")
        assert isinstance(made, np.ndarray) and made.dtype == dtype
        np.testing.assert_allclose(made, want, rtol=within, atol=within)
    on_device = jnp.asarray(kernel)
    made = merged_kernel(on_device, a, b, 0.5, "qkv")
    np.testing.assert_allclose(made, want, rtol=1e-5, atol=1e-5)
    assert on_device.is_deleted()


@pytest.mark.parametrize("name", FORMATS)
def test_a_kernel_in_8_bits_is_quantised_anew(name):
    kernel, a, b = pair()
    stored = quantize_kernel(kernel, FORMATS[name])
    want = dequantize_kernel(stored, jnp.float32) + 0.5 * a @ b
    made = merged_kernel(jax.tree.map(jnp.copy, stored), a, b, 0.5, "qkv")
    assert made.values.dtype == FORMATS[name].dtype and made.scale.dtype == stored.scale.dtype
    error = dequantize_kernel(Quantized(*made), jnp.float32) - want
    assert np.abs(error).max() <= np.abs(want).max() / 28  # half a step of fp8 at the largest


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"i": 9}, r"its qkv is of 9 to 12 features and \(3,\) layers, not 8 to 12 and \(3,\)"),
        ({"o": 13}, "8 to 13 features"),
        ({"stack": (2,)}, r"\(2,\) layers"),
    ],
)
def test_kernels_of_another_shape(sizes, says):
    with pytest.raises(UserError, match=f"another transformer: .*{says}"):
        merged_kernel(pair()[0], *pair(**sizes)[1:], 1.0, "qkv")


def test_a_layer_that_is_not_there():
    _, a, b = pair()
    with pytest.raises(UserError, match="this one has no blocks/qkv"):
        merge_adapter({}, {"blocks": {"qkv": {"lora": {"lora_a": a, "lora_b": b}}}}, 1.0)


def random_numbers(shapes, seed, dtype):
    rng, flat = np.random.default_rng(seed), flatten(shapes)

    def draw(path, leaf):
        if path.endswith("rope_freqs"):
            return jnp.asarray(np.linspace(0.1, 1, leaf.size).reshape(leaf.shape), leaf.dtype)
        scale = leaf.shape[-2] ** -0.5 if leaf.shape[-2:-1] else 1.0
        return jnp.asarray(scale * rng.normal(size=leaf.shape), dtype)

    return unflatten({path: draw(path, leaf) for path, leaf in flat.items()})


@pytest.mark.slow
def test_a_merged_transformer_computes_what_the_two_do_but_for_rounding():
    """In float32 the same; in bfloat16 as near to float32 as the unmerged one."""
    adapter = Adapter(4, targets=("_blocks/", "vid_in", "vid_out", "emb_in"), alpha=2.0)
    shapes = with_adapter(abstract_dit(CONFIG, np.float32), adapter)
    update = fresh_adapter(jax.random.key(0), shapes)
    update = random_numbers(update, 1, jnp.float32)
    plan = plan_for(blob_mask((3, 8, 12), 0.4))

    def velocity(dit, params, dtype):
        inputs = random_inputs(CONFIG, plan, dtype)
        program = velocity_step(dit).lower(params, *inputs).compile(QUICK)
        return np.asarray(program(params, *inputs), np.float32)[plan.valid]

    def relative(got, want):
        return np.linalg.norm(got - want) / np.linalg.norm(want)

    found = {}
    for dtype in ("float32", "bfloat16"):
        plain = abstract_dit(CONFIG, np.dtype(dtype))
        frozen = random_numbers(frozen_shapes(shapes), 0, jnp.float32)
        frozen = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(dtype), frozen)  # noqa: B023
        both = with_adapter(abstract_dit(CONFIG, np.dtype(dtype)), adapter)
        apart = velocity(both, joined(frozen, update), dtype)
        alone = velocity(plain, frozen, dtype)
        merged = merge_adapter(frozen, update, adapter.scale)
        found[dtype] = apart, velocity(plain, merged, dtype), alone
    apart, merged, alone = found["float32"]
    assert relative(alone, apart) > 0.1  # the adapter does something
    assert relative(merged, apart) < 1e-5
    unmerged_error, merged_error = (relative(x, apart) for x in found["bfloat16"][:2])
    assert merged_error < 1.5 * unmerged_error < 0.1
