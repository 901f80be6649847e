"""A stage that trains an adapter: what is trained, and the numbers on several devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_training import EIGHT_HEADS, QUICK, random_autoencoder, write_pictures

from skipsr_jax.data.dataset import batches
from skipsr_jax.data.discovery import find_sources
from skipsr_jax.errors import UserError
from skipsr_jax.models.adapter import Adapter, frozen_shapes, with_adapter
from skipsr_jax.models.params import flatten
from skipsr_jax.models.quantized_params import quantize_params
from skipsr_jax.parallel.mesh import make_mesh
from skipsr_jax.parallel.rules import shardings
from skipsr_jax.training.mesh_checks import fit_to_mesh
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stages import sr
from skipsr_jax.training.step import fresh_state, make_step, on_devices
from skipsr_jax.training.transformer import abstract_dit, fresh_params

# One set of weights for video and text: half as much to compile.
CONFIG = dataclasses.replace(EIGHT_HEADS, mm_layers=0, gated_mlp=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("pictures"))


def settings_for(root, **adapter):
    data = Data(root=(str(root),), batch=8, frames=1, crop=(32, 32), pan_share=1.0)
    loss = sr.SrLoss(
        pixel_weight=0.0, train_text=False, text_lengths=(3, 2), dense_share=0.3, negative_share=0.3
    )
    return Settings(
        "sr", data, Optimizer(1e-2, warmup_steps=1, ema_decay=0.5), Loop(3), loss,
        adapter=Adapter(**({"rank": 4} | adapter)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def base():
    """A frozen transformer of random numbers, on the host."""
    make = jax.jit(lambda key: fresh_params(key, CONFIG, (3, 2)), compiler_options=QUICK)
    return jax.device_get(make(jax.random.key(1)))


def stage_for(settings, base, config=CONFIG):
    """The stage, with latents in its batches in place of the autoencoder."""
    dit = base["dit"]
    if settings.adapter.format is not None:
        module = with_adapter(abstract_dit(config, np.float32), settings.adapter)
        made = quantize_params(dit, frozen_shapes(module), settings.adapter.format)
        dit = jax.tree.map(np.asarray, made)
    base = base | {"dit": dit}
    stage = sr.make(settings, config, random_autoencoder(), base)
    return dataclasses.replace(stage, prepare=None, frozen=base)


def with_latents(batch, number):
    rng = np.random.default_rng(number)
    shapes = [(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], 16) for x in batch.mask]
    hr, lr = (tuple(rng.normal(size=x).astype(np.float32) for x in shapes) for _ in range(2))
    return batch._replace(hr_latents=hr, lr_latents=lr)


def steps(settings, base, sizes=(1, 1, 1), count=3, config=CONFIG):
    """Metrics of each step on a mesh, the last state, and the compiled step."""
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    stage = fit_to_mesh(stage_for(settings, base, config), settings, mesh)
    dataset = batches(find_sources(settings.data.root), stage.recipe)
    start = jax.jit(lambda key: fresh_state(stage, settings.optimizer, key), compiler_options=QUICK)
    seen, step = [], None
    with jax.set_mesh(mesh):
        state = start(jax.random.key(0))
        state = jax.device_put(state, shardings(state, mesh))
        frozen = jax.device_put(stage.frozen, shardings(stage.frozen, mesh))
        for _ in range(count):
            batch = on_devices(with_latents(dataset[0], 0), mesh)
            inputs = (state, frozen, batch, np.float32(1e-2))
            if step is None:
                step = jax.jit(make_step(stage, settings.optimizer, 0)).lower(*inputs)
                step = step.compile(QUICK)
            state, metrics = step(*inputs)
            seen.append(jax.device_get(metrics))
    return seen, state, step


@pytest.fixture(scope="module")
def alone(root, base):
    return steps(settings_for(root), base)


def test_adapters_alone_have_gradients_averages_and_optimizer_states(alone):
    seen, state, _ = alone
    assert seen[-1]["loss"] < seen[0]["loss"]
    paths = list(flatten(state["params"]))
    assert paths and all(path.startswith("adapter/") for path in paths)
    assert {path.rsplit("/", 1)[-1] for path in paths} == {"lora_a", "lora_b"}
    sizes = {x.size for x in jax.tree.leaves(state["params"])}
    assert {x.size for x in jax.tree.leaves(state["opt_state"])} <= sizes | {1}
    assert {x.dtype for x in jax.tree.leaves(state["params"])} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_a_mesh_gives_the_numbers_of_one_device(root, base, alone):
    """Kernels are sharded over fsdp and tokens over seq; adapters are on all devices."""
    seen, state, _ = steps(settings_for(root), base, (2, 2, 2))
    np.testing.assert_allclose([m["loss"] for m in seen], [m["loss"] for m in alone[0]], rtol=2e-4)
    found, wanted = (flatten(jax.device_get(x["params"])) for x in (state, alone[1]))
    for path in wanted:
        # Adam divides by the size of a gradient: where it is noise, so is the step.
        assert np.abs(found[path] - wanted[path]).mean() < 1e-4, path
    a = state["params"]["adapter"]["shared_blocks"]["all"]["qkv"]["lora"]["lora_a"]
    assert a.sharding.is_fully_replicated


@pytest.mark.slow
def test_remat_of_kernels_in_8_bits_changes_nothing(root, base, alone):
    settings = settings_for(root, precision="fp8", dropout=0.1)
    losses = []
    for remat in ("none", "full"):
        config = dataclasses.replace(CONFIG, remat=remat)
        losses.append([m["loss"] for m in steps(settings, base, config=config)[0]])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert losses[0][-1] < losses[0][0]
    # Fresh adapters add nothing; the frozen transformer is rounded, and by little.
    assert 0 < abs(losses[0][0] / alone[0][0]["loss"] - 1) < 0.05


@pytest.mark.slow
def test_dropout_is_for_training_alone(root, base):
    settings = settings_for(root, dropout=0.5, targets=("qkv",))
    stage = stage_for(settings, base)
    batch = with_latents(batches(find_sources(settings.data.root), stage.recipe)[0], 0)
    params = stage.init(jax.random.key(0))
    b = params["adapter"]["shared_blocks"]["all"]["qkv"]["lora"]
    b["lora_b"] = jnp.ones_like(b["lora_b"])  # fresh adapters add nothing
    paths = {f"adapter/shared_blocks/all/qkv/lora/lora_{x}" for x in "ab"}
    assert flatten(params).keys() == paths
    (trainee,) = stage.trainees
    training, evaluation = (
        functools.partial(
            jax.jit(lambda batch, key, loss=loss: loss(params, stage.frozen, batch, key)[0]), batch
        )
        for loss in (trainee.loss, stage.loss)
    )
    same, noise = jax.random.key(3), jax.random.key(4)
    assert training(same) == training(same) != training(noise)
    assert evaluation(same) == evaluation(same) != training(same)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"adapter": {"targets": ("nothing",)}},
            "match no dense layer.*/all/mlp/proj_in",
        ),
        ({"loss": {"train_text": True}}, r"set config\.loss\.train_text to False"),
        ({"init_from": ""}, r"set --config\.init_from"),
    ],
)
def test_what_cannot_be_an_adapter(root, changes, says):
    settings = settings_for(root, **changes.pop("adapter", {}))
    loss = dataclasses.replace(settings.loss, **changes.pop("loss", {}))
    settings = dataclasses.replace(settings, loss=loss, **changes)
    with pytest.raises(UserError, match=says):
        sr.make(settings, CONFIG, random_autoencoder())


def test_other_stages_train_all_parameters(root):
    with pytest.raises(UserError, match=r"adapter\.rank is 4: it must be 0 in stage distill"):
        dataclasses.replace(settings_for(root), stage="distill")
