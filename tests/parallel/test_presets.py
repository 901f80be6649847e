"""The table of cuts on every network that has a name: training states, by shapes alone."""

import jax
import pytest
from jax.sharding import AbstractMesh

from skipsr_jax.models.dit import DiT
from skipsr_jax.models.params import abstract, to_dict
from skipsr_jax.models.predictor import PAPER, make_predictor
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.models.vae import SEEDVR, VAE
from skipsr_jax.parallel.rules import bytes_per_device, path_of, shardings
from skipsr_jax.training.optimizer import transformation
from skipsr_jax.training.settings import Optimizer

LARGE = 2**20
"""Numbers in a parameter that has to be cut."""

NETWORKS = {
    **{
        name: lambda rngs, config=config: DiT(config, rngs=rngs)
        for name, config in DIT_PRESETS.items()
    },
    "vae": lambda rngs: VAE(SEEDVR, rngs=rngs),
    "predictor": lambda rngs: make_predictor(PAPER, rngs=rngs),
}


def training_state(build):
    """Parameters, moving average and moments of a network, as shapes."""
    params = to_dict(abstract(build))
    moments = jax.eval_shape(transformation(Optimizer(1e-4)).init, params)
    return {"params": params, "ema": params, "opt_state": {"all": moments}}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_large_parameter_is_cut(name):
    state = training_state(NETWORKS[name])
    total = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    for fsdp in (2, 8):
        mesh = AbstractMesh((2, fsdp, 4), ("data", "fsdp", "seq"))
        places = dict(jax.tree_util.tree_leaves_with_path(shardings(state, mesh)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if leaf.size >= LARGE:
                whole = f"{path_of(path)} {leaf.shape} is whole on every device"
                assert "fsdp" in places[path].spec, whole
        assert total / fsdp <= bytes_per_device(state, mesh) < 1.06 * total / fsdp


def test_moments_and_average_lie_where_their_parameter_lies():
    state = training_state(NETWORKS["tiny"])
    mesh = AbstractMesh((1, 4, 1), ("data", "fsdp", "seq"))
    places = shardings(state, mesh)
    adam = places["opt_state"]["all"][1]
    assert places["params"] == places["ema"] == adam.mu == adam.nu


def test_bytes_of_3b_on_eight_devices():
    """Parameters in float32, their average and two moments: 54 GB in all."""
    mesh = AbstractMesh((1, 8, 1), ("data", "fsdp", "seq"))
    assert bytes_per_device(training_state(NETWORKS["seedvr2_3b"]), mesh) == pytest.approx(
        3_391_475_776 * 16 / 8, rel=0.01
    )
