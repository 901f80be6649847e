"""Changes between two sets of weights in 8 bits, and weights between them."""

import jax
import ml_dtypes
import numpy as np

from skipsr_jax.models.sharpness import changes, sharpened


def weights(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 3, 4, 5), "stack": (2, 4, 6), "bias": (5,), "table": (7, 3)}
    return {"net": {name: rng.normal(size=s).astype(dtype) for name, s in shapes.items()}}


def nearby(params, size):
    moves = weights(1)
    return jax.tree.map(lambda x, y: x + np.float32(size) * y, params, moves)


def test_the_ends_are_the_two_sets_of_weights():
    faithful = weights(0)
    sharp = nearby(faithful, 0.05)
    moved = changes(faithful, sharp)
    assert all(x.dtype == np.int8 for x in jax.tree.leaves(moved["change"]))
    same, other = (sharpened(faithful, moved["change"], moved["scale"], s) for s in (0.0, 1.0))
    jax.tree.map(np.testing.assert_array_equal, same, faithful)
    for name, x in other["net"].items():
        wanted, scale = sharp["net"][name], moved["scale"]["net"][name]
        assert np.all(np.abs(x - wanted) <= 0.51 * scale + 1e-6), name
        assert np.abs(x - wanted).max() < 0.01 * np.abs(wanted - faithful["net"][name]).max()


def test_the_middle_is_halfway():
    faithful = weights(0)
    moved = changes(faithful, nearby(faithful, 0.1))
    ends = [sharpened(faithful, moved["change"], moved["scale"], s) for s in (0.0, 0.5, 1.0)]
    for a, b, c in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(2 * b, a + c, rtol=1e-5, atol=1e-6)


def test_each_output_channel_has_its_scale_and_what_is_equal_stays():
    faithful = weights(0, ml_dtypes.bfloat16)
    sharp = jax.tree.map(np.copy, faithful)
    sharp["net"]["stack"][1, :, 2] += 1.0
    moved = changes(faithful, sharp)
    scale = moved["scale"]["net"]["stack"]
    assert scale.shape == (2, 1, 6) and np.count_nonzero(scale) == 1 and scale[1, 0, 2] > 0
    made = sharpened(faithful, moved["change"], moved["scale"], 1.0)
    assert made["net"]["stack"].dtype == ml_dtypes.bfloat16
    for name in ("kernel", "bias", "table"):
        np.testing.assert_array_equal(made["net"][name], faithful["net"][name])
