"""Random weights for the networks of LPIPS and DISTS, the same wherever numpy draws them."""

import numpy as np

from skipsr_jax.evaluation.measures import backbones, dists, weights


def network(layers):
    """Tensors of a torchvision file: He-initialised convolutions, small biases."""
    tensors = {}
    for number, inputs, outputs, kernel, _, _ in (layer for stage in layers for layer in stage):
        rng = np.random.default_rng([number, inputs, outputs])
        shape = (outputs, inputs, kernel, kernel)
        scale = np.sqrt(2 / (inputs * kernel**2)).astype(np.float32)
        tensors[f"features.{number}.weight"] = rng.standard_normal(shape, np.float32) * scale
        tensors[f"features.{number}.bias"] = 0.1 * rng.standard_normal(outputs, np.float32)
    return tensors


def linear(layers):
    """Tensors of LPIPS' linear layers."""
    rng = np.random.default_rng(1)
    return {
        f"lin{index}.model.1.weight": rng.random((1, count, 1, 1), np.float32)
        for index, count in enumerate(backbones.channels(layers))
    }


def similarity():
    """Tensors alpha and beta of DISTS."""
    rng = np.random.default_rng(2)
    shape = (1, sum(dists.CHANNELS), 1, 1)
    return {name: rng.random(shape, np.float32) for name in ("alpha", "beta")}


FILES = {
    weights.ALEXNET: lambda: network(backbones.ALEXNET),
    weights.VGG16: lambda: network(backbones.VGG16),
    weights.LPIPS_ALEX: lambda: linear(backbones.ALEXNET),
    weights.LPIPS_VGG: lambda: linear(backbones.VGG16),
    weights.DISTS: similarity,
}


def read(file):
    """In the place of `Weights.read`."""
    return FILES[file]()


def frames(height, width, seed=0):
    """A smooth truth with lines in it, and a result that is noisier: (h, w, 3) uint8 each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    channels = [np.sin(9 * x + 3 * y), np.cos(14 * y * x), np.sign(np.sin(40 * x)) * y]
    truth = 127 + 90 * np.stack(channels, -1)
    result = truth + rng.normal(0, 12, truth.shape)
    return tuple(np.clip(np.rint(frame), 0, 255).astype(np.uint8) for frame in (result, truth))
