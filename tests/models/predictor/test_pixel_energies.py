"""Energies of the low-resolution frames, against the same written out in numpy."""

import jax
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.models.predictor import pixel_energies
from skipsr_jax.models.predictor.pixel_energies import (
    FLOOR,
    MIRROR_AXES,
    PixelEnergies,
    cell_weights,
    channels,
)
from skipsr_jax.tokens.criterion import TAU


@pytest.fixture(scope="module")
def energies():
    module = PixelEnergies(2, rngs=nnx.Rngs(0))
    return module, jax.jit(lambda params, frames, weights: bind(module, params)(frames, weights))


def written_out(kernel, frames, cell):
    """One clip, every sum by hand, in cells of ``cell`` x ``cell`` pixels."""
    kernel = kernel - kernel.mean((0, 1))
    f, h, w, _ = frames.shape
    padded = np.pad(frames, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    bands = np.zeros((f, h, w, kernel.shape[-1]))
    for y in range(5):
        for x in range(5):
            bands += padded[:, y : y + h, x : x + w] @ kernel[y, x]

    def cells(group):
        return np.stack(
            [
                [group[:, v : v + cell, u : u + cell].mean((0, 1, 2)) for u in range(0, w, cell)]
                for v in range(0, h, cell)
            ]
        )

    out = []
    for first, stop in [(0, 1), *((i, i + 4) for i in range(1, f, 4))]:
        part = bands[first:stop]
        energies = np.log(cells(part**2) / TAU + FLOOR)
        out.append(np.concatenate([energies, 2 * cells(frames[first:stop]) - 1], axis=-1))
    return np.stack(out)


@pytest.mark.parametrize("factor", [4, 2])
def test_as_written_out(energies, factor):
    """A cell is 8 x 8 pixels of the target: 2 x 2 of the input at a factor of 4."""
    module, run = energies
    params = to_dict(module)
    size = 32 // factor, 48 // factor
    frames = np.random.default_rng(0).random((2, 5, *size, 3)).astype(np.float32)
    images = run(params, frames, cell_weights(size, (32, 48)))
    assert [x.shape for x in images] == [(2, 2, 4, 6, channels(2))] * len(MIRROR_AXES)
    kernel = np.asarray(params["kernel"], np.float64)
    for axes, got in zip(MIRROR_AXES, images, strict=True):
        mirrored = np.flip(frames, axes).astype(np.float64)
        for clip, want in zip(got, mirrored, strict=True):
            want = written_out(kernel, want, 8 // factor)
            np.testing.assert_allclose(clip, want, rtol=1e-3, atol=2e-3)


def test_groups_that_run_one_by_one_give_the_same(energies, monkeypatch):
    module, _ = energies
    frames = jax.random.uniform(jax.random.key(1), (1, 9, 4, 4, 3))
    params = to_dict(module)
    whole = bind(module, params)(frames)
    for name in ("BAND_BYTES", "CPU_BAND_BYTES"):
        monkeypatch.setattr(pixel_energies, name, 1)
    for a, b in zip(whole, bind(module, params)(frames), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_brightness_is_no_energy(energies):
    """A flat picture has none, at any brightness and whatever the filters' means."""
    module, run = energies
    params = {"kernel": np.asarray(to_dict(module)["kernel"]) + 0.3}
    frames = np.full((1, 5, 4, 4, 3), 0.9, np.float32)
    got = np.asarray(run(params, frames, None)[0])[..., :2]
    np.testing.assert_allclose(got, np.log(FLOOR), atol=1e-2)
