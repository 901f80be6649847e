"""Adapters in checkpoints: read, written alone, merged by export and into official files."""

import dataclasses

import jax
import numpy as np
import pytest
from small_model import DIT_CONFIG, write_small_model

from benchmarks.models import abstract_dit
from skipsr_jax.checkpoints import convert, export, safetensors_file, store, train_state
from skipsr_jax.checkpoints.adapter import read_adapter
from skipsr_jax.config import to_json
from skipsr_jax.errors import UserError
from skipsr_jax.models.adapter import Adapter, adapter_shapes, with_adapter
from skipsr_jax.models.params import flatten

ADAPTER = Adapter(2, targets=("qkv", "mlp/proj_in$"), alpha=3.0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A model, and the workdir of an adapter for it whose average differs."""
    root = tmp_path_factory.mktemp("adapter")
    write_small_model(root / "model")
    shapes = adapter_shapes(with_adapter(abstract_dit(DIT_CONFIG, np.float32), ADAPTER))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    for name, sizes in (
        ("run", DIT_CONFIG),
        ("other", dataclasses.replace(DIT_CONFIG, expand_ratio=2)),
    ):
        state = {
            "params": {"adapter": params},
            "ema": {"adapter": jax.tree.map(lambda x: x / 2, params)},
            "opt_state": {"count": np.zeros((), np.int32)},
        }
        config = {
            "adapter": to_json(ADAPTER), "base": to_json(sizes), "base_checkpoint": "model",
            "settings": {"lr": 1},
        }  # fmt: skip
        with train_state.open_manager(root / name / "checkpoints") as manager:
            train_state.save_step(manager, 7, state, config)
    return root


def merged(runs, share=1.0):
    """The transformer's arrays as they should be, by hand."""
    flat = flatten(store.restore_host(runs / "model", ("dit",)))
    update = flatten(read_adapter(runs / "run", "params").params)
    for path, a in update.items():
        if path.endswith("lora_a"):
            kernel = "dit/" + path.replace("lora/lora_a", "kernel")
            b = update[path.removesuffix("a") + "b"]
            flat[kernel] = flat[kernel] + share * share * 1.5 * (a @ b)
    return flat


def check(found, want):
    assert found.keys() == want.keys()
    for path, array in want.items():
        np.testing.assert_allclose(found[path], array, rtol=1e-5, atol=1e-5, err_msg=path)


def test_alone_it_is_what_was_trained_and_a_checkpoint_that_is_read_like_the_run(runs, tmp_path):
    out = tmp_path / "alone"
    arguments = ["export", f"--adapter={runs}/run", f"--out={out}", "--ema"]
    assert export.main(arguments) == 0
    config = store.load_config(out)
    assert config["exported"]["adapter"]["branch"] == "ema" and "settings" not in config
    (part,) = store.restore_host(out).keys()
    assert part == "adapter"
    alone, run = read_adapter(out), read_adapter(runs / "run")
    assert run.branch == "ema" and alone.branch == "params" and alone.adapter == ADAPTER
    assert jax.tree.all(jax.tree.map(np.array_equal, alone.params, run.params))
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(alone.params))


def test_export_merges_it_into_a_model(runs, tmp_path, capsys):
    out = tmp_path / "merged"
    arguments = [f"--model={runs}/model", f"--adapter={runs}/run", f"--out={out}"]
    assert export.main(["export", *arguments]) == 0
    assert "adapter of step 7" in capsys.readouterr().out
    check(flatten(store.restore_host(out, ("dit",))), merged(runs))
    config, before = store.load_config(out), store.load_config(runs / "model")
    assert config["dit"] == before["dit"] and "adapter" not in config
    assert config["exported"]["adapter"]["branch"] == "params"
    assert store.stored_shapes(out).keys() == store.stored_shapes(runs / "model").keys()


def test_official_files_hold_the_merged_transformer(runs, tmp_path):
    model, run = f"{runs}/model", f"{runs}/run"
    export.merge(str(tmp_path / "merged"), {}, model=model, adapter=run, ema=True)
    for name, arguments in (
        ("exported", [f"--checkpoint={tmp_path}/merged"]),
        ("converted", [f"--checkpoint={model}", f"--adapter={run}"]),
    ):
        convert.run(["convert", *arguments, f"--out={tmp_path}/{name}", "--to=safetensors"])
    read = safetensors_file.read(str(tmp_path / "converted" / "dit.safetensors"))
    want = safetensors_file.read(str(tmp_path / "exported" / "dit.safetensors"))
    assert read.keys() == want.keys()
    for name, tensor in want.items():
        np.testing.assert_array_equal(read[name].load(), tensor.load(), err_msg=name)
    check(flatten(store.restore_host(tmp_path / "merged", ("dit",))), merged(runs, 0.5))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model={0}/model", "--adapter={0}/other"], "not for that of .*model"),
        (["--vae={0}/model", "--adapter={0}/run"], "give its transformer as --dit or --model"),
        (["--model={0}/model", "--adapter={0}/model"], "holds no adapter, but dit, predictor"),
        (["--adapter={0}/model", "--ema"], "has no averaged weights: leave out --ema"),
        (["--dit={0}/run"], "its config has no 'dit'"),
    ],
)
def test_what_export_refuses(runs, tmp_path, arguments, says):
    filled = [argument.format(runs) for argument in arguments]
    with pytest.raises(UserError, match=says):
        export.run(["export", *filled, f"--out={tmp_path}/out"])
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_merged_on_the_way_back_alone(runs, tmp_path):
    with pytest.raises(UserError, match="--adapter is merged when converting back"):
        convert.run(["convert", f"--adapter={runs}/run", f"--out={tmp_path}/out"])
