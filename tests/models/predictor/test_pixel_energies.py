"""Energies of the low-resolution frames, against the same written out in numpy."""

import jax
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.params import bind, to_dict
from skipsr_jax.models.predictor.pixel_energies import FLOOR, PixelEnergies, channels
from skipsr_jax.tokens.criterion import TAU


@pytest.fixture(scope="module")
def energies():
    module = PixelEnergies(2, rngs=nnx.Rngs(0))
    return module, jax.jit(lambda params, frames: bind(module, params)(frames))


def written_out(kernel, frames):
    """One clip, every sum by hand."""
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
                [group[:, v : v + 2, u : u + 2].mean((0, 1, 2)) for u in range(0, w, 2)]
                for v in range(0, h, 2)
            ]
        )

    out = []
    for first, stop in [(0, 1), *((i, i + 4) for i in range(1, f, 4))]:
        part = bands[first:stop]
        energies = np.log(cells(part**2) / TAU + FLOOR)
        out.append(np.concatenate([energies, 2 * cells(frames[first:stop]) - 1], axis=-1))
    return np.stack(out)


def test_as_written_out(energies):
    module, run = energies
    params = to_dict(module)
    frames = np.random.default_rng(0).random((2, 5, 4, 6, 3)).astype(np.float32)
    got = np.asarray(run(params, frames))
    assert got.shape == (2, 2, 2, 3, channels(2))
    for clip, want in zip(got, frames, strict=True):
        want = written_out(np.asarray(params["kernel"], np.float64), want.astype(np.float64))
        np.testing.assert_allclose(clip, want, rtol=1e-3, atol=2e-3)


def test_brightness_is_no_energy(energies):
    """A flat picture has none, at any brightness and whatever the filters' means."""
    module, run = energies
    params = {"kernel": np.asarray(to_dict(module)["kernel"]) + 0.3}
    frames = np.full((1, 5, 4, 4, 3), 0.9, np.float32)
    got = np.asarray(run(params, frames))[..., :2]
    np.testing.assert_allclose(got, np.log(FLOOR), atol=1e-2)
