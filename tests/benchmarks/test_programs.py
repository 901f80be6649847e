"""Programs as shapes: one clip over all devices, or one for each shard of the pack axis."""

import jax
import pytest

from benchmarks import programs
from skipsr_jax.errors import UserError
from skipsr_jax.models.presets import DIT_PRESETS
from skipsr_jax.parallel.mesh import make_mesh

TINY = DIT_PRESETS["tiny"]


@pytest.mark.parametrize(("at_once", "clips", "devices"), [(0, 2, 2), (1, 1, 4), (4, 4, 2)])
def test_devices_that_share_a_clip(at_once, clips, devices):
    """On a mesh of two shards of the pack axis and two devices along seq."""
    mesh = make_mesh(1, 2, 2, devices=jax.devices()[:4])
    program = programs.refine(TINY, mesh, programs.Clip(5, 64, 64, 0.0, at_once))
    tokens = program.arguments[1]
    assert program.clips == tokens.shape[0] == clips
    here = tokens.sharding.shard_shape(tokens.shape)
    assert here[:2] == (-(-clips // 2), tokens.shape[1] // devices)
    assert program.flops > 0 and program.tokens == 2 * 4 * 4


@pytest.mark.parametrize("coder", ["full", "light"])
@pytest.mark.parametrize("build", programs.CODER_PROGRAMS.values())
def test_slices_of_a_coder_over_devices(build, coder):
    mesh = make_mesh(1, 1, 4, devices=jax.devices()[:4])
    program = build(mesh, programs.Clip(5, 64, 64, 0.0, 1), coder)
    assert program.arguments[1].sharding.shard_shape(program.arguments[1].shape)[2] in (2, 16)
    with jax.set_mesh(mesh):
        program.function.trace(*program.arguments)  # the cache is the one that it takes there
    assert program.flops > 0


def test_heads_that_do_not_divide_over_the_devices_of_one_clip():
    clip = programs.Clip(5, 64, 64, 0.0, 1)
    with pytest.raises(UserError, match="4 heads do not divide over a mesh of 8"):
        programs.refine(TINY, make_mesh(1, 2, 4), clip)
    with pytest.raises(UserError, match="clips is -1"):
        programs.Clip(5, 64, 64, 0.0, -1)
