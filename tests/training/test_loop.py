"""The loop with a stage small enough to compile in a moment."""

import dataclasses
import json
import logging
import os
import resource
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from skipsr_jax.checkpoints import store
from skipsr_jax.errors import UserError
from skipsr_jax.parallel.mesh import TrainingMeshSizes
from skipsr_jax.training import loop as loop_module
from skipsr_jax.training.loop import train
from skipsr_jax.training.pixels import signed, upscaled
from skipsr_jax.training.settings import Data, Loop, Optimizer, Settings
from skipsr_jax.training.stage import Stage, Trainee, recipe_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(4):
        small = rng.integers(0, 255, (12, 12, 3), np.uint8)
        Image.fromarray(small).resize((64, 64), Image.BICUBIC).save(root / f"{'abcd'[i]}.png")
    return Data(root=(str(root),), batch=8, frames=5, crop=(16, 16), workers=0, pan_share=1.0)


def settings_for(data, init_from="", mesh=None, **loop):
    return Settings(
        stage="vae",
        data=data,
        optimizer=Optimizer(0.01, warmup_steps=2),
        loop=Loop(**({"steps": 6, "log_every": 1, "save_every": 2} | loop)),
        loss=None,
        init_from=init_from,
        mesh=mesh or TrainingMeshSizes(),
    )


def colour_stage(settings, bad_step=None):
    """Learns a colour matrix with noise on its input; not finite at ``bad_step`` if given."""

    def init(key):
        return {"colour": {"kernel": jax.random.normal(key, (3, 8)), "fixed": jnp.ones(())}}

    def loss(params, frozen, batch, key):
        truth = signed(batch.hr[0])
        x = upscaled(batch.lr[0], truth.shape[2:4])
        x = x + 0.1 * jax.random.normal(key, x.shape)
        kernel = params["colour"]["kernel"]
        error = jnp.square(x @ kernel @ frozen["out"] - truth).mean() * params["colour"]["fixed"]
        if bad_step is not None:
            first = jax.random.fold_in(jax.random.key(settings.seed), bad_step)
            same = (jax.random.key_data(first) == jax.random.key_data(key)).all()
            error = jnp.where(same, jnp.nan, error)
        return error, {"error": error}

    return Stage(
        init=init,
        loss=loss,
        frozen={"out": jnp.eye(8, 3)},
        fixed=frozenset({"colour/fixed"}),
        recipe=recipe_of(settings, masks=False),
        config={"vae": {}},
    )


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines], [line["loss"] for line in lines]


def test_a_stopped_run_repeats_an_uninterrupted_one(data, tmp_path, monkeypatch, caplog):
    settings = settings_for(data)
    assert train(settings, colour_stage(settings), str(tmp_path / "whole")) == 6
    steps, want = losses(tmp_path / "whole")
    assert steps == [1, 2, 3, 4, 5, 6] and want[-1] < want[0]

    class Interrupting(loop_module.MetricWriter):
        def write(self, step, metrics):
            super().write(step, metrics)
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    part = tmp_path / "part"
    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "MetricWriter", Interrupting)
        stopped = train(settings, colour_stage(settings), str(part))
    assert stopped in (3, 4)
    # What kill -9 leaves behind: a line beyond the checkpoint, and a half-written checkpoint.
    with (part / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "loss": -1.0}) + "\n")
    (part / "checkpoints" / "5" / "state").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        assert train(settings, colour_stage(settings), str(part)) == 6
    assert "set aside as 5.incomplete" in caplog.text
    steps, got = losses(part)
    assert steps == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    for branch in ("params", "ema"):
        whole, part_ = (store.restore_host(tmp_path / d, branch=branch) for d in ("whole", "part"))
        assert jax.tree.all(jax.tree.map(np.array_equal, whole, part_))
    assert store.restore_host(part)["colour"]["fixed"] == 1  # buffers are not trained
    assert train(settings, colour_stage(settings), str(part)) == 6  # done: nothing happens


def test_own_checkpoint_before_init_from_before_scratch(data, tmp_path):
    first = settings_for(data, steps=4)
    train(first, colour_stage(first), str(tmp_path / "first"))
    second = settings_for(data, init_from=str(tmp_path / "first"), steps=1)
    train(second, colour_stage(second), str(tmp_path / "second"))
    start, from_scratch = losses(tmp_path / "second")[1][0], losses(tmp_path / "first")[1][0]
    assert start < from_scratch
    absent = settings_for(data, init_from=str(tmp_path / "absent"), steps=1)
    with pytest.raises(UserError, match="no such checkpoint"):
        train(absent, colour_stage(absent), str(tmp_path / "third"))


def test_what_is_not_finite_stops_the_run_and_names_the_last_good_checkpoint(data, tmp_path):
    settings = settings_for(data)
    with pytest.raises(UserError, match=r"not finite.*checkpoints/2"):
        train(settings, colour_stage(settings, bad_step=3), str(tmp_path))
    assert np.isfinite(store.restore_host(tmp_path)["colour"]["kernel"]).all()


def test_the_time_limit_stops_and_saves(data, tmp_path):
    settings = settings_for(data, steps=10**6, max_seconds=3.0, save_every=10**6)
    done = train(settings, colour_stage(settings), str(tmp_path))
    assert 0 < done < 10**6 and store.step_folder(tmp_path).name == str(done)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["learning_rate"] < 0.005  # annealed by the clock


def test_every_mesh_gives_the_same_losses(data, tmp_path):
    curves = []
    for name, mesh in (
        ("data", TrainingMeshSizes(-1, 1, 1)),
        ("fsdp", TrainingMeshSizes(2, 2, -1)),
    ):
        settings = settings_for(data, mesh=mesh, steps=3)
        train(settings, colour_stage(settings), str(tmp_path / name))
        curves.append(losses(tmp_path / name)[1])
    np.testing.assert_allclose(curves[0], curves[1], atol=1e-5)


def test_batch_has_to_divide_over_devices_and_micro_batches(data, tmp_path):
    settings = settings_for(dataclasses.replace(data, batch=3))
    with pytest.raises(UserError, match=r"data\.batch is 3"):
        train(settings, colour_stage(settings), str(tmp_path))
    accumulating = dataclasses.replace(settings_for(data).optimizer, accumulate=2)
    settings = dataclasses.replace(settings_for(data), optimizer=accumulating)
    with pytest.raises(UserError, match=r"batch is 8: .* x optimizer\.accumulate 2"):
        train(settings, colour_stage(settings), str(tmp_path))


def test_auxiliary_params_begin_as_the_stage_says_and_are_not_read_from_init_from(data, tmp_path):
    start = {"kernel": np.full((3, 8), 0.25, np.float32), "fixed": np.ones((), np.float32)}
    store.save_model(tmp_path / "first", {"colour": start}, {})

    def with_discriminator(settings):
        """The colour stage, and a discriminator that begins as its copy and is pulled to zero."""
        plain = colour_stage(settings)

        def away(params, frozen, batch, key):
            return jnp.square(params["discriminator"]["kernel"]).sum(), {}

        trainees = (
            Trainee("discriminator", ("discriminator",), away),
            Trainee("colour", ("colour",), plain.loss),
        )
        return dataclasses.replace(
            plain,
            init=lambda key: plain.init(key) | {"discriminator": plain.init(key)["colour"]},
            trainees=trainees,
            auxiliary=frozenset({"discriminator"}),
            begin=lambda params: (
                params | {"discriminator": jax.tree.map(jnp.copy, params["colour"])}
            ),
        )

    held_out = dataclasses.replace(data, eval_root=data.root)
    settings = settings_for(held_out, init_from=str(tmp_path / "first"), steps=1, eval_every=1)
    assert train(settings, with_discriminator(settings), str(tmp_path / "second")) == 1
    discriminator = store.restore_host(tmp_path / "second")["discriminator"]["kernel"]
    moved = np.abs(discriminator - start["kernel"])
    assert 0 < moved.max() < 0.0051  # one step of 0.005 from the colours of init_from
    assert store.restore_host(tmp_path / "second", branch="ema").keys() == {"colour"}
    settings = dataclasses.replace(settings, loop=dataclasses.replace(settings.loop, steps=2))
    assert train(settings, with_discriminator(settings), str(tmp_path / "second")) == 2
    again = store.restore_host(tmp_path / "second")["discriminator"]["kernel"]
    assert (np.abs(again) < np.abs(discriminator)).all()  # went on from where it was


def test_evaluation_on_held_out_clips(data, tmp_path):
    held_out = dataclasses.replace(data, eval_root=data.root)
    settings = settings_for(held_out, steps=2, eval_every=2, eval_batches=2)
    train(settings, colour_stage(settings), str(tmp_path))
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and last["eval/loss"] == pytest.approx(last["eval/error"])


def phased_stage(settings):
    """The colour stage in two phases of three steps; ``before`` has the average before each."""
    stage = colour_stage(settings)
    copy = {"kernel": jnp.zeros((3, 8))}

    def begin(params):
        return params | {"before": {"kernel": params["colour"]["kernel"]}}

    return dataclasses.replace(
        stage,
        init=lambda key: stage.init(key) | {"before": copy},
        begin=begin,
        auxiliary=frozenset({"before"}),
        trainees=(Trainee("colour", ("colour",), stage.loss),),
        phases=(3, 3),
    )


def test_phases_begin_anew_and_a_run_stopped_between_two_repeats_an_uninterrupted_one(
    data, tmp_path
):
    settings = settings_for(data, save_every=1, keep=6)
    assert train(settings, phased_stage(settings), str(tmp_path / "whole")) == 6
    steps, want = losses(tmp_path / "whole")
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert rates[:3] == rates[3:] and rates[2] < rates[1]  # warm-up and cosine, twice
    first, fourth = (
        store.restore_host(tmp_path / "whole", branch=branch, step=step)
        for branch, step in (("ema", 3), ("params", 4))
    )
    np.testing.assert_array_equal(fourth["before"]["kernel"], first["colour"]["kernel"])

    for stop in (2, 3):  # within the first phase, and at its end
        part = tmp_path / f"stopped at {stop}"
        shutil.copytree(tmp_path / "whole", part)
        for step in range(stop + 1, 7):
            shutil.rmtree(part / "checkpoints" / str(step))
        assert train(settings, phased_stage(settings), str(part)) == 6
        assert losses(part) == (steps, want)
        for branch in ("params", "ema"):
            whole, again = (
                store.restore_host(d, branch=branch) for d in (tmp_path / "whole", part)
            )
            assert jax.tree.all(jax.tree.map(np.array_equal, whole, again))


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "metadata", "config", "checksum"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_serves(
    data, tmp_path, caplog, damage
):
    settings = settings_for(data, steps=4)
    train(settings, colour_stage(settings), str(tmp_path))
    step = tmp_path / "checkpoints" / "4"
    # All files of arrays: the format leaves some behind that nothing refers to.
    stored = [path for path in (step / "state").rglob("d/*") if path.is_file()]
    match damage:
        case "missing" | "cut" | "flipped":
            for path in stored:
                content = path.read_bytes()
                middle = len(content) // 2
                changed = bytes([content[middle] ^ 1])
                whole = content[:middle] + changed + content[middle + 1 :]
                path.write_bytes(whole if damage == "flipped" else content[:middle])
                if damage == "missing":
                    path.unlink()
        case "metadata":
            (step / "state" / "_METADATA").write_text("{")
        case "config":
            (step / "config" / "metadata").write_text("[")
        case "checksum":  # what a bit that flips in the values themselves looks like
            config = json.loads((step / "config" / "metadata").read_text())
            config["checksums"]["params/colour/kernel"] = "0" * 16
            config.pop("config_sha256")
            (step / "config" / "metadata").write_text(json.dumps(config))
    longer = settings_for(data, steps=5)
    assert train(longer, colour_stage(longer), str(tmp_path)) == 5
    assert "set aside as 4.damaged" in caplog.text
    folders = {child.name for child in (tmp_path / "checkpoints").iterdir()}
    assert folders == {"4", "5", "4.damaged"}


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(data, tmp_path):
    settings = settings_for(data, steps=2)
    train(settings, colour_stage(settings), str(tmp_path))
    (tmp_path / "checkpoints" / "2" / "config" / "metadata").write_text("[")
    with pytest.raises(UserError, match=r"every checkpoint is damaged \(2\)"):
        train(settings, colour_stage(settings), str(tmp_path))


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(data, tmp_path, caplog):
    settings = settings_for(data, steps=2)
    train(settings, colour_stage(settings), str(tmp_path))
    path = tmp_path / "checkpoints" / "2" / "config" / "metadata"
    config = json.loads(path.read_text())
    assert len(config.pop("checksums")) > 4 and config.pop("config_sha256")
    path.write_text(json.dumps(config))
    assert train(settings, colour_stage(settings), str(tmp_path)) == 2
    assert "without checksums" in caplog.text


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_that_is_gone_is_one_line(data, tmp_path, monkeypatch, before):
    workdir = tmp_path / "run"
    if before:
        workdir.mkdir()
        (workdir / "checkpoints").write_text("a file")

    class Removing(loop_module.MetricWriter):
        def write(self, step, metrics):
            super().write(step, metrics)
            if step == 1:
                shutil.rmtree(workdir)

    settings = settings_for(data)
    with monkeypatch.context() as patch:
        if not before:
            patch.setattr(loop_module, "MetricWriter", Removing)
        with pytest.raises(UserError, match="checkpoints: is no folder"):
            train(settings, colour_stage(settings), str(workdir))


def test_a_checkpoint_with_no_room_for_it_is_one_line(data, tmp_path):
    settings = settings_for(data, steps=3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(UserError, match="cannot be saved, there is none yet: File too large"):
            train(settings, colour_stage(settings), str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert train(settings, colour_stage(settings), str(tmp_path)) == 3
