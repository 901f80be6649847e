"""A run with weights between the two sets of a checkpoint."""

import jax
import numpy as np
import pytest
import small_model

from skipsr_jax.checkpoints import export, store
from skipsr_jax.errors import UserError
from skipsr_jax.inference.model import load_model
from skipsr_jax.inference.settings import Settings
from skipsr_jax.models.params import flatten
from skipsr_jax.parallel.mesh import make_mesh


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Checkpoints: faithful, sharp, and both in one."""
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("faithful", "sharp")):
        small_model.write_small_model(root / name, seed, light_coder=True)
    export.merge(str(root / "both"), {}, model=str(root / "faithful"), sharp=str(root / "sharp"))
    return {name: str(root / name) for name in ("faithful", "sharp", "both")}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_weights_are_between_the_two_sets(paths, dtype):
    ends = [load_model(paths[name], dtype).params for name in ("faithful", "sharp")]
    for sharpness in (0.25, 1.0):
        model = load_model(paths["both"], dtype, sharpness=sharpness)
        assert model.coder_kind == "light" and model.sharpness == sharpness
        found = flatten(model.params)
        for key, (a, b) in zip(found, zip(*map(_leaves, ends), strict=True), strict=True):
            wanted = a + sharpness * (b - a)
            atol = 0.006 * np.abs(b - a).max() + (0.02 if dtype == "bfloat16" else 1e-6)
            assert found[key].dtype == (np.float32 if "rope" in key else dtype), key
            np.testing.assert_allclose(np.float32(found[key]), wanted, atol=atol, err_msg=key)


def _leaves(params):
    return [np.float32(x) for x in flatten(params).values()]


@pytest.mark.slow
def test_the_full_coder_has_no_second_set_of_weights(paths):
    full = load_model(paths["both"], "float32", coder="full", sharpness=1.0).params
    alone = load_model(paths["faithful"], "float32", coder="full").params
    jax.tree.map(np.testing.assert_array_equal, full["coder"], alone["coder"])
    assert not np.array_equal(full["dit"]["vid_in"]["kernel"], alone["dit"]["vid_in"]["kernel"])


@pytest.mark.slow
def test_shards_get_their_part_of_the_changes(paths):
    mesh = make_mesh(1, 2, 1, devices=jax.devices()[:2])
    one = load_model(paths["both"], "float32", sharpness=0.5).params
    two = load_model(paths["both"], "float32", mesh=mesh, sharpness=0.5).params
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert not two["dit"]["vid_in"]["kernel"].sharding.is_fully_replicated


def test_a_checkpoint_of_one_set_refuses_sharpness(paths):
    with pytest.raises(UserError, match=r"config\.sharpness=0\.5: .*one set of weights"):
        load_model(paths["faithful"], "float32", sharpness=0.5)
    with pytest.raises(ValueError, match="sharpness"):
        Settings(checkpoint="x", sharpness=1.5)


def test_both_sets_take_little_more_than_one(paths):
    stored = store.stored_shapes(paths["both"])
    sizes = {name: sum(x.size for x in jax.tree.leaves(tree)) for name, tree in stored.items()}
    change = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(stored["sharp"]["change"]))
    assert change == sizes["dit"] + sizes["light_coder"] + sizes["text"]
