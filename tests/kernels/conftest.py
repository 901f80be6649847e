"""Lowering for a GPU that is not there."""

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh


@pytest.fixture
def abstract_h200():
    """Programs of the test are lowered for an H200."""
    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="cuda")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        yield
