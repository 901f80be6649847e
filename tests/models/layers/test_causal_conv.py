"""The causal convolution: all forms agree, with gradients; frames before the first are copies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from skipsr_jax.kernels.norm_silu_concat.frames import api
from skipsr_jax.kernels.target import Target
from skipsr_jax.models.flops import traced_flops
from skipsr_jax.models.layers.causal_conv import _as_conv2d, _as_conv3d, causal_conv3d, conv3d

SAME, END = ((1, 1), (1, 1)), ((0, 1), (0, 1))
FORMS = [
    ((3, 3, 3), (1, 1, 1), SAME, 4),
    ((3, 3, 3), (2, 2, 2), END, 5),
    ((1, 3, 3), (1, 2, 2), END, 2),
    ((3, 3, 3), (1, 2, 2), SAME, 3),
    ((1, 1, 1), (1, 1, 1), ((0, 0), (0, 0)), 2),
    ((2, 2, 2), (1, 1, 1), SAME, 3),
]


def _random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("size", "strides", "padding", "frames"), FORMS)
def test_all_forms_agree_with_gradients(size, strides, padding, frames):
    x, kernel = _random(2, frames, 6, 8, 3), _random(*size, 3, 5, seed=1)

    def value_and_grads(form):
        def loss(x, kernel):
            y = form(x, kernel, strides, padding)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(x, kernel)

    def plain(x, kernel, strides, padding):
        dimensions = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, strides, ((0, 0), *padding), dimension_numbers=dimensions
        )

    (_, expected), expected_grads = value_and_grads(plain)
    for form in (_as_conv2d, _as_conv3d, conv3d):
        (_, y), grads = value_and_grads(form)
        np.testing.assert_allclose(y, expected, atol=1e-4)
        for got, want in zip(grads, expected_grads, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-3)


def test_the_platform_decides_when_the_program_is_lowered():
    x, kernel = jnp.ones((1, 3, 4, 4, 2)), jnp.ones((3, 3, 3, 2, 2))
    run = jax.jit(functools.partial(conv3d, strides=(1, 1, 1), padding=SAME))
    for platform, rank in (("cpu", 4), ("cuda", 5), ("tpu", 5)):
        text = run.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        spatial = "[b, 0, 1, f]" if rank == 4 else "[b, 0, 1, 2, f]"
        assert spatial in text, platform
        assert text.count("stablehlo.convolution") == 1, platform


def test_the_backward_pass_keeps_the_inputs_alone():
    x, kernel = jnp.ones((1, 4, 4, 4, 2)), jnp.ones((3, 3, 3, 2, 2))
    _, pull = jax.vjp(conv3d, x, kernel)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pull) if hasattr(leaf, "size"))
    assert kept <= x.size + kernel.size


def test_the_first_frame_stands_for_the_frames_before():
    x, kernel = _random(1, 3, 4, 4, 2), _random(3, 3, 3, 2, 2, seed=1)
    y, _ = causal_conv3d(x, kernel)
    extended = jnp.concatenate([x[:, :1], x[:, :1], x], axis=1)
    np.testing.assert_array_equal(y, conv3d(extended, kernel))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_single_frame_is_convolved_once_for_all_its_copies(stride):
    x, kernel = _random(1, 1, 4, 6, 2), _random(3, 3, 3, 2, 3, seed=1)
    y, cache = causal_conv3d(x, kernel, None, (stride, 1, 1))
    np.testing.assert_allclose(y, conv3d(jnp.repeat(x, 3, axis=1), kernel), atol=1e-4)
    np.testing.assert_array_equal(cache, jnp.repeat(x, 3 - stride, axis=1))
    counted = traced_flops(lambda x, kernel: causal_conv3d(x, kernel)[0], x, kernel)
    assert counted == 2 * y.size * 9 * 2


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("lengths", [(1, 4, 2), (3, 2, 2), (1, 6), (5, 2)])
def test_slices_give_the_whole(stride, lengths):
    x, kernel = _random(1, 7, 4, 4, 2), _random(3, 3, 3, 2, 3, seed=1)
    strides = (stride, 1, 1)
    whole, _ = causal_conv3d(x, kernel, None, strides)
    parts, cache, start = [], None, 0
    for length in lengths:
        part, cache = causal_conv3d(x[:, start : start + length], kernel, cache, strides)
        assert cache.shape[1] == 3 - stride
        parts.append(part)
        start += length
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-5)


@pytest.mark.usefixtures("abstract_h200")
def test_on_a_gpu_the_kernel_concatenates_and_pads_a_later_slice(monkeypatch):
    monkeypatch.setattr(api, "current_target", lambda: Target("gpu", (9, 0)))
    x = jnp.ones((1, 5, 6, 8, 16), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 3, 16, 16), jnp.bfloat16)
    run = jax.jit(functools.partial(causal_conv3d, strides=(2, 2, 2), padding=END))
    texts = [
        run.trace(*inputs).lower(lowering_platforms=("cuda",)).as_text()
        for inputs in ((x, kernel, None), (x[:, 1:], kernel, x[:, :1]))
    ]
    first, later = (text.count("triton") > 0 for text in texts)
    assert (first, later) == (False, True)
    assert "pad = [[0, 0], [0, 1], [0, 1]]" in texts[0]
    assert "pad = [[0, 0], [0, 0], [0, 0]]" in texts[1]


def test_no_cache_without_a_temporal_kernel():
    assert causal_conv3d(jnp.ones((1, 2, 2, 2, 1)), jnp.ones((1, 3, 3, 1, 1)))[1] == ()


def test_frames_that_do_not_fill_a_stride_are_refused():
    x, kernel = jnp.ones((1, 2, 4, 4, 1)), jnp.ones((3, 3, 3, 1, 1))
    with pytest.raises(ValueError, match=r"4 frames .* steps of 2"):
        causal_conv3d(x, kernel, None, (2, 1, 1))
