"""The mesh, the tables of shardings, and constraints in a program, on eight virtual devices."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.activations import constrain
from skipsr_jax.parallel.mesh import make_mesh, pack_sharding, pack_shards, slices_of
from skipsr_jax.parallel.rules import shardings, spec_for


def test_mesh_infers_one_size():
    mesh = make_mesh(-1, 2, 2)
    assert dict(mesh.shape) == {"data": jax.device_count() // 4, "fsdp": 2, "seq": 2}
    assert pack_shards(mesh) == jax.device_count() // 2


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, -1, 1), (0, 1, 1), (-1, 16, 1)])
def test_mesh_refuses_sizes_that_do_not_fit(sizes):
    with pytest.raises(UserError, match="mesh"):
        make_mesh(*sizes)


def test_devices_of_several_slices_are_grouped_or_refused():
    chips = [
        SimpleNamespace(platform="tpu", slice_index=number % 2, id=number) for number in range(4)
    ]
    with pytest.raises(UserError, match=r"2 slices, and mesh\.slices is 1: set mesh\.slices=2"):
        slices_of(chips, 1)
    assert [[chip.id for chip in group] for group in slices_of(chips, 2)] == [[0, 2], [1, 3]]
    with pytest.raises(UserError, match="does not divide devices evenly: 2, 1"):
        slices_of(chips[:3], 2)


def test_slices_divide_data_alone():
    """Eight virtual devices as two slices: entries along data are of one slice after the other."""
    mesh = make_mesh(-1, 2, 2, slices=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "seq": 2}
    first, second = ({device.id for device in part.flat} for part in mesh.devices)
    assert max(first) < min(second)
    with pytest.raises(UserError, match="2, but mesh\\.data is 1"):
        make_mesh(1, 4, 2, slices=2)
    for number in (0, 3):
        with pytest.raises(UserError, match=rf"mesh\.slices is {number}"):
            make_mesh(-1, 1, 1, slices=number)


def test_rules_shard_the_last_axes_and_skip_what_does_not_divide():
    mesh = make_mesh(-1, 4, 1)
    assert spec_for("params/dit/vid_in/kernel", (132, 192), mesh) == P(None, "fsdp")
    assert spec_for("mu/dit/blocks/mlp/kernel", (6, 192, 512), mesh) == P(None, None, "fsdp")
    assert spec_for("dit/vid_out/kernel", (192, 64), mesh) == P("fsdp", None)
    assert spec_for("vae/decoder/conv_out/kernel", (3, 3, 3, 16, 3), mesh) == P(
        None, None, None, "fsdp", None
    )
    assert spec_for("dit/vid_in/kernel", (132, 190), mesh) == P(None, None)
    assert spec_for("dit/vid_in/bias", (192,), mesh) == P(None)
    assert spec_for("step", (), mesh) == P()


def test_arrays_are_sharded_by_path():
    mesh = make_mesh(-1, 2, 1)
    tree = {"a": {"kernel": np.zeros((4, 6))}, "text": {"positive": np.zeros((2, 4))}}
    placed = jax.device_put(tree, shardings(tree, mesh))
    assert placed["a"]["kernel"].addressable_shards[0].data.shape == (4, 3)
    assert placed["text"]["positive"].addressable_shards[0].data.shape == (2, 4)


def test_constrain_shards_on_a_mesh_and_does_nothing_without():
    x = jnp.arange(64.0).reshape(8, 8)
    assert constrain(x, ("data", "fsdp"), None) is x
    mesh = make_mesh(-1, 2, 1)
    with jax.set_mesh(mesh):
        y = jax.jit(lambda x: constrain(x * 2, ("data", "fsdp"), "absent"))(x)
        odd = jax.jit(lambda x: constrain(x, "data", None))(jnp.ones((3, 2)))
    assert y.sharding.is_equivalent_to(pack_sharding(mesh), 2)
    assert odd.sharding.is_fully_replicated
    np.testing.assert_array_equal(y, x * 2)
