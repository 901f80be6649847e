"""Training gives the same numbers on every mesh, and a checkpoint of one is a checkpoint of all."""

import dataclasses

import jax
import numpy as np
import pytest
from hlo import collectives
from small_training import EIGHT_HEADS, QUICK, random_autoencoder, write_pictures

from skipsr_jax.checkpoints import store, train_state
from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import flatten
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.training.mesh_checks import fit_to_mesh
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stages import sr
from skipsr_jax.training.step import fresh_state, make_step, on_devices


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = write_pictures(tmp_path_factory.mktemp("pictures"))
    data = Data(root=(str(root),), batch=8, frames=1, crop=(32, 32), pan_share=1.0)
    loss = sr.SrLoss(one_step_share=0.5, pixel_weight=0.0, dense_share=0.3, negative_share=0.3)
    return Settings("sr", data, Optimizer(1e-2, warmup_steps=1, ema_decay=0.5), Loop(3), loss)


# One set of weights for video and text: half as much to compile. No token count is 40.
SHARED = dataclasses.replace(EIGHT_HEADS, width=40, mm_layers=0)


def stage_for(settings):
    return sr.make(settings, SHARED, random_autoencoder())


def latents_drawn(stage):
    """The stage with latents in its batches, in place of the autoencoder that would make them."""
    return dataclasses.replace(stage, prepare=None, frozen={})


def draw_latents(batch, number):
    rng = np.random.default_rng(number)
    shapes = [(*mask.shape[:2], 2 * mask.shape[2], 2 * mask.shape[3], 16) for mask in batch.mask]
    hr, lr = (tuple(rng.normal(size=x).astype(np.float32) for x in shapes) for _ in range(2))
    return batch._replace(hr_latents=hr, lr_latents=lr)


@pytest.fixture(scope="module")
def start(settings):
    """The state before the first step, on the host: made once for all meshes."""
    stage = stage_for(settings)
    make = jax.jit(lambda key: fresh_state(stage, settings.optimizer, key), compiler_options=QUICK)
    return jax.device_get(make(jax.random.key(0)))


def three_steps(settings, start, sizes, encode=False):
    """Losses and the last state of three steps of stage sr on a mesh, and the compiled step."""
    mesh = on(sizes)
    stage = fit_to_mesh(stage_for(settings), settings, mesh)
    dataset = batches(find_sources(settings.data.root), stage.recipe)
    stage = stage if encode else latents_drawn(stage)
    losses, step = [], None
    with jax.set_mesh(mesh):
        state = jax.device_put(start, shardings(start, mesh))
        frozen = jax.device_put(stage.frozen, shardings(stage.frozen, mesh))
        for number in range(3):
            batch = dataset[number]
            batch = on_devices(batch if encode else draw_latents(batch, number), mesh)
            given = (state, frozen, batch, np.float32(1e-2))
            if step is None:
                step = jax.jit(make_step(stage, settings.optimizer, 0)).lower(*given).compile(QUICK)
            state, metrics = step(*given)
            losses.append(float(metrics["loss"]))
    return losses, state, step


def on(sizes):
    return make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])


@pytest.fixture(scope="module")
def alone(settings, start):
    return three_steps(settings, start, (1, 1, 1))


@pytest.fixture(scope="module")
def spread(settings, start):
    return three_steps(settings, start, (2, 2, 2))


def check_equal(got, want):
    np.testing.assert_allclose(got[0], want[0], rtol=2e-4)
    for name in ("params", "ema"):
        found, wanted = (flatten(jax.device_get(x[1][name])) for x in (got, want))
        for path in wanted:
            # Adam divides by the size of a gradient: where it is noise, so is the step.
            np.testing.assert_allclose(found[path], wanted[path], atol=2e-3, err_msg=path)
            assert np.abs(found[path] - wanted[path]).mean() < 2e-5, path


def test_three_steps_are_those_of_one_device(spread, alone):
    kernel = spread[1]["params"]["dit"]["shared_blocks"]["all"]["qkv"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (2, 40, 288 // 2)
    moved = np.abs(
        np.asarray(kernel)
        - np.asarray(spread[1]["ema"]["dit"]["shared_blocks"]["all"]["qkv"]["kernel"])
    )
    assert moved.max() > 1e-3  # the average lags: something was learned
    check_equal(spread, alone)


def test_tokens_meet_by_all_to_all_and_by_nothing_larger(spread, alone):
    """No all-gather but of parameters, text and what is smaller; a device alone sends nothing."""
    seen, p = collectives(spread[2]), SHARED.head_dim
    exchanged = [c.shapes for c in seen if c.kind == "all-to-all" and c.shapes[0][-1:] == (p,)]
    rows = exchanged[0][0][-3]
    # To each of two devices a piece: q, k and v of two of eight heads; and one result back.
    assert set(exchanged) == {((1, 3, 2, rows, 2, p),) * 2, ((1, 2, rows, 2, p),) * 2}
    assert len(exchanged) == 2 * 2 * 2  # two goes of heads, there and back, forward and backward
    for c in seen:
        if c.kind == "all-gather":
            assert all(not {rows, 2 * rows} & set(shape[:-1]) for shape in c.shapes), c
    assert not collectives(alone[2])


def test_no_tokens_pass_between_slices_and_gradients_once(spread):
    """Two slices of four devices, which divide data: no exchange of tokens crosses them, and all
    that does is no more than a sum of every gradient and a copy of it, once."""
    mesh = make_mesh(2, 2, 2, slices=2)
    first, second = ({device.id for device in part.flat} for part in mesh.devices)
    seen = collectives(spread[2])
    assert all(c.groups for c in seen)
    between = [
        c for c in seen if any(first & set(group) and second & set(group) for group in c.groups)
    ]
    assert "all-to-all" in {c.kind for c in seen}.difference(c.kind for c in between)
    sums = sum(int(np.prod(shape)) for c in between for shape in c.shapes)
    parameters = sum(x.size for x in jax.tree.leaves(spread[1]["params"]))
    assert 0.4 * parameters < sums < 2.2 * parameters, sums / parameters


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 1, 4)], ids=str)
def test_three_steps_on_other_meshes(settings, start, alone, sizes):
    check_equal(three_steps(settings, start, sizes), alone)


@pytest.fixture(scope="module")
def alone_from_pixels(settings, start):
    return three_steps(settings, start, (1, 1, 1), encode=True)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(2, 2, 2), (8, 1, 1), (1, 8, 1), (1, 1, 4)])
def test_three_steps_from_pixels(settings, start, alone_from_pixels, sizes):
    check_equal(three_steps(settings, start, sizes, encode=True), alone_from_pixels)


@pytest.mark.slow
def test_mixed_packs_train_on_a_mesh_as_on_one_device(settings, start):
    """A picture of one shape and two of another in each of eight sequences, over data and fsdp."""
    pack = ((1, 1, 32, 32), (2, 1, 16, 48))
    mixed = dataclasses.replace(settings, data=dataclasses.replace(settings.data, pack=pack))
    want = three_steps(mixed, start, (1, 1, 1), encode=True)
    check_equal(three_steps(mixed, start, (2, 2, 2), encode=True), want)


def test_a_checkpoint_moves_between_meshes(spread, tmp_path):
    """Saved on (2, 2, 2); restored on (1, 8, 1) and one device; parameters alone too."""
    state = spread[1]
    with train_state.open_manager(tmp_path / "checkpoints") as manager:
        train_state.save_step(manager, 3, state, {})
        manager.wait_until_finished()
        for mesh in (on((1, 8, 1)), on((1, 1, 1))):
            places = shardings(state, mesh)
            like = jax.tree.map(
                lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
                state,
                places,
            )
            back = train_state.restore_step(manager, like)
            assert jax.tree.all(jax.tree.map(lambda x, place: x.sharding == place, back, places))
            jax.tree.map(np.testing.assert_array_equal, back, state)
            params = store.restore_params(tmp_path, shardings=shardings(state["params"], mesh))
            jax.tree.map(np.testing.assert_array_equal, params, state["params"])


@pytest.mark.parametrize(
    ("sizes", "changes", "says"),
    [
        ((1, 1, 3), {}, "8 heads do not divide over a mesh of 3 devices"),
        ((4, 2, 1), {"batch": 4}, r"data\.batch is 4: it must be a multiple of 1 samples"),
        ((1, 1, 8), {"crop": (16, 32)}, r"mesh\.seq is 8, but a sequence of data\.batch has 2"),
        (
            (4, 2, 1),
            {"batch": 4, "pack": ((1, 1, 32, 32), (2, 1, 16, 48))},
            r"data\.batch is 4: it must be a multiple of 1 samples a pack x 8 devices",
        ),
        (
            (1, 1, 8),
            {"pack": ((1, 1, 16, 32), (1, 1, 16, 48))},
            r"mesh\.seq is 8, but a sequence of data\.batch has 5",
        ),
    ],
)
def test_what_does_not_fit_the_mesh(settings, sizes, changes, says):
    changed = dataclasses.replace(settings, data=dataclasses.replace(settings.data, **changes))
    mesh = on(sizes)
    with pytest.raises(UserError, match=says):
        fit_to_mesh(stage_for(changed), changed, mesh)
