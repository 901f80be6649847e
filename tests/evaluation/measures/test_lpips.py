"""LPIPS and DISTS against the numbers of their own packages, on the public networks' shapes.

lpips 0.1.4 and DISTS-pytorch 0.1 ran in torch, with the random weights of `random_networks`.
"""

import pytest
from evaluation.measures import random_networks

from skipsr_jax.errors import UserError
from skipsr_jax.evaluation.measures import dists, lpips, weights
from skipsr_jax.evaluation.measures.stream import Picture, Undefined

EXPECTED = {
    (64, 96): {"alex": 0.0370425135, "vgg": 0.0416390859, "dists": 0.0091616870},
    (71, 53): {"alex": 0.0322005674, "vgg": 0.0393896215, "dists": 0.0063072773},
}


@pytest.fixture(scope="module")
def metrics():
    return {
        "alex": lpips.make("alex", random_networks.read),
        "vgg": lpips.make("vgg", random_networks.read),
        "dists": dists.make(random_networks.read),
    }


@pytest.mark.parametrize("size", EXPECTED)
def test_agrees_with_the_packages(metrics, size):
    pictures = [Picture(codes) for codes in random_networks.frames(*size)]
    for name, expected in EXPECTED[size].items():
        assert metrics[name](*pictures) == pytest.approx(expected, rel=1e-4), name


def test_equal_frames_have_distance_zero(metrics):
    picture = Picture(random_networks.frames(64, 96)[1])
    assert metrics["alex"](picture, picture) == 0
    assert metrics["dists"](picture, picture) == pytest.approx(0, abs=1e-5)
    with pytest.raises(Undefined, match="32 pixels"):
        metrics["alex"](*map(Picture, random_networks.frames(31, 96)))


def test_a_file_of_another_network_is_refused():
    def read(file):
        swapped = {weights.ALEXNET: weights.VGG16}
        return random_networks.read(swapped.get(file, file))

    with pytest.raises(UserError, match=r"features.0.weight must have shape \(64, 3, 11, 11\)"):
        lpips.make("alex", read)
