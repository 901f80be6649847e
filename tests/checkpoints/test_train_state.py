"""Training checkpoints: optimizer states, another mesh, the averaged weights."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from skipsr_jax.checkpoints import store, train_state
from skipsr_jax.checkpoints.damage import DamagedCheckpointError
from skipsr_jax.errors import UserError


def make(seed: int) -> dict:
    params = {"vae": {"w": jax.random.normal(jax.random.key(seed), (8, 4)), "b": jnp.ones(4)}}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = optimizer.init(params)
    _, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    return {"params": params, "opt_state": state, "ema": params, "step": jnp.int32(seed)}


def test_round_trip_onto_another_mesh(tmp_path):
    state = make(5)
    with train_state.open_manager(tmp_path / "checkpoints") as manager:
        assert train_state.save_step(manager, 5, state, {"tau": 1.0})
        manager.wait_until_finished()
        assert not train_state.save_step(manager, 5, state, {"tau": 1.0})
        sharding = NamedSharding(jax.make_mesh((2, 4), ("data", "fsdp")), PartitionSpec())
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state
        )
        back = train_state.restore_step(manager, like)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for got, want in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
        assert got.sharding == sharding
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
    config = store.load_config(tmp_path)
    assert config.pop("checksums").keys() >= {"params/vae/w", "ema/vae/b"}
    assert config == {"format_version": 1, "tau": 1.0}
    ema = store.restore_params(tmp_path, branch="ema")
    np.testing.assert_array_equal(ema["vae"]["w"], state["ema"]["vae"]["w"])


def test_missing_and_unfitting_states_are_named(tmp_path):
    with train_state.open_manager(tmp_path) as manager:
        with pytest.raises(UserError, match="has no checkpoint"):
            train_state.restore_step(manager, make(1))
        train_state.save_step(manager, 1, make(1), {})
        manager.wait_until_finished()
        other = make(1)
        other["params"]["vae"]["w"] = jnp.zeros((8, 5))
        with pytest.raises(UserError, match="does not fit"):
            train_state.restore_step(manager, other)
        with pytest.raises(UserError, match="does not fit"):
            train_state.restore_step(manager, make(1) | {"discriminator": make(1)["params"]})


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_damage_of_many_large_arrays_is_one_error_without_a_traceback(tmp_path, damage, capfd):
    """Orbax raises a bare Exception, and reports the other arrays when they are collected."""
    params = {str(i): jax.random.normal(jax.random.key(i), (300, 300)) for i in range(6)}
    with train_state.open_manager(tmp_path) as manager:
        train_state.save_step(manager, 1, {"params": params}, {})
        manager.wait_until_finished()
        files = [path for path in (tmp_path / "1" / "state").rglob("d/*") if path.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        content = np.fromfile(largest, np.uint8)
        if damage == "flipped":
            content[::5000] ^= 4
            content.tofile(largest)
        elif damage == "cut":
            content[: len(content) // 3].tofile(largest)
        else:
            largest.unlink()
        with pytest.raises(DamagedCheckpointError):
            train_state.restore_step(manager, {"params": params})
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err
