"""Frames that exceed the memory are refused with their key; a step's need is compared with it."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from skipsr_jax.errors import UserError
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.training import batch_memory
from skipsr_jax.training.batch_memory import check_batch_fits, missing_memory
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


def test_what_a_step_needs_is_compared_with_what_is_free(monkeypatch):
    step = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T).lower(jnp.ones((256, 8))).compile()
    needed = 256 * 256 * 4 * len(jax.local_devices())  # the result; its argument is there
    for free in (4 * needed, None):
        monkeypatch.setattr(batch_memory, "host_free", lambda free=free: free)
        assert missing_memory(step) is None
    monkeypatch.setattr(batch_memory, "host_free", lambda: needed - 1)
    short = missing_memory(step)
    assert re.fullmatch(r"needs .* GiB and the host has .*", short), short
