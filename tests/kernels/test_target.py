"""The machine that a program is for: the mesh's devices, else this host's."""

import dataclasses

import jax
from jax.sharding import AbstractMesh, AxisType

from skipsr_jax.kernels.target import Target, current_target
from skipsr_jax.parallel.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh says of its devices."""

    platform: str
    device_kind: str
    num_cores: int


def test_without_a_mesh_it_is_this_host():
    assert current_target().platform == jax.devices()[0].platform


def test_a_mesh_of_this_host_changes_nothing():
    alone = current_target()
    with jax.set_mesh(make_mesh()):
        assert current_target() == alone


def test_the_mesh_of_other_devices_decides():
    chip = Chip("tpu", "TPU v5 lite", 1)
    mesh = AbstractMesh((2,), ("data",), (AxisType.Auto,), abstract_device=chip)
    with jax.sharding.use_abstract_mesh(mesh):
        assert current_target() == Target("tpu")


def test_programs_traced_for_two_targets_are_kept_separate():
    platforms = []

    @jax.jit
    def program(x):
        platforms.append(current_target().platform)
        return x

    chip = Chip("tpu", "TPU v5 lite", 1)
    mesh = AbstractMesh((2,), ("data",), (AxisType.Auto,), abstract_device=chip)
    program.trace(1.0)
    for _ in range(2):
        with jax.sharding.use_abstract_mesh(mesh):
            program.trace(1.0)
    assert platforms == [jax.devices()[0].platform, "tpu"]
