"""Batches whose frames alone exceed the memory are refused with the key and what they take."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.training import batch_memory
from skipsr_jax.training.batch_memory import check_batch_fits, check_step_fits
from skipsr_jax.training.settings import Data, Settings

DATA = Data(root=("sample",), batch=8, frames=17, crop=(64, 64))
FRAMES = 3 * 8 * 17 * 64 * 64


@pytest.mark.parametrize(
    ("data", "key"),
    [
        (DATA, "batch is 8"),
        (dataclasses.replace(DATA, batch=1, frames=1, image_batch=153, image_crop=(64, 64),
                             image_share=0.5),
         "image_batch is 153"),
        (dataclasses.replace(DATA, batch=2, pack=((4, 17, 64, 64), (1, 1, 16, 16))), "batch is 2"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_its_key(data, key, monkeypatch):
    settings, mesh = Settings("sr", data), make_mesh(devices=jax.devices()[:1])
    check_batch_fits(settings, mesh)
    monkeypatch.setattr(batch_memory, "_memory", lambda: None)
    check_batch_fits(settings, mesh)
    monkeypatch.setattr(batch_memory, "_memory", lambda: FRAMES - 1)
    with pytest.raises(UserError, match=f"config.data.{key}: the frames of a batch alone take"):
        check_batch_fits(settings, mesh)
    monkeypatch.setattr(batch_memory, "_memory", lambda: 2 * FRAMES)
    check_batch_fits(settings, mesh)


def test_a_step_that_does_not_fit_is_refused_with_the_keys_that_help(monkeypatch):
    step = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T).lower(jnp.ones((256, 8))).compile()
    needed = 256 * 256 * 4 * len(jax.local_devices())  # the result; its argument is there
    monkeypatch.setattr(batch_memory, "host_free", lambda: 4 * needed)
    check_step_fits(step)
    monkeypatch.setattr(batch_memory, "host_free", lambda: None)
    check_step_fits(step)
    monkeypatch.setattr(batch_memory, "host_free", lambda: needed - 1)
    with pytest.raises(UserError, match=r"a training step needs .* host has .* config.remat=full"):
        check_step_fits(step)
