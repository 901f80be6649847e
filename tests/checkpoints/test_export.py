"""Stage checkpoints merged into one model checkpoint."""

import jax
import ml_dtypes
import numpy as np
import pytest

from skipsr_jax.checkpoints import export, lazy, store, torch_writer, train_state
from skipsr_jax.errors import UserError
from skipsr_jax.models.params import flatten


def train(workdir, params: dict, config: dict, step: int) -> None:
    ema = jax.tree.map(lambda x: x + 1, params)
    with train_state.open_manager(workdir / "checkpoints") as manager:
        state = {"params": params, "ema": ema, "opt_state": {"count": np.zeros((), np.int32)}}
        train_state.save_step(manager, step, state, config)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    weights = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    train(root / "vae", {"vae": {"w": weights}}, {"vae": {"size": 1}, "settings": {"lr": 1}}, 5)
    predictor = {"predictor": {"size": 2}, "tau": 2e-4, "settings": {"lr": 2}}
    train(root / "predictor", {"predictor": {"w": weights * 2}}, predictor, 6)
    dit = {"mm_blocks": {"rope_freqs": weights, "w": weights}}
    params = {"dit": dit, "text": {"positive": weights}, "discriminator": {"w": weights}}
    train(root / "coder", {"light_coder": {"w": weights * 4}}, {"light_coder": {"size": 4}}, 8)
    train(root / "sr", params, {"dit": {"size": 3}, "tau": 0.5, "vae": {"size": 9}}, 7)
    return root


def test_the_parts_of_all_runs_and_what_they_are(runs, tmp_path, capsys):
    out = tmp_path / "model"
    parts = [f"--vae={runs}/vae", f"--predictor={runs}/predictor", f"--dit={runs}/sr"]
    assert export.main(["export", *parts, f"--out={out}", "--dtype=bfloat16", "--ema"]) == 0
    assert "dit of step 7, vae of step 5, predictor of step 6" in capsys.readouterr().out
    config = store.load_config(out)
    assert [config[part]["size"] for part in ("vae", "predictor", "dit")] == [1, 2, 3]
    assert config["tau"] == 2e-4 and "settings" not in config
    assert config["exported"]["dit"] == {"run": f"{runs}/sr", "step": 7, "branch": "ema"}
    params = flatten(store.restore_host(out))
    assert {path.split("/")[0] for path in params} == {"vae", "predictor", "dit", "text"}
    weights = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    assert params["vae/w"].dtype == params["text/positive"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(params["predictor/w"], (weights * 2 + 1).astype("bfloat16"))
    np.testing.assert_array_equal(params["text/positive"], weights.astype("bfloat16"))
    assert params["dit/mm_blocks/rope_freqs"].dtype == np.float32


def test_a_light_coder_joins_a_model_whose_other_parts_stay_as_they_are(runs, tmp_path, capsys):
    model, out = str(tmp_path / "model"), tmp_path / "light"
    before = export.merge(model, {"vae": f"{runs}/vae", "dit": f"{runs}/sr"}, ema=True)
    arguments = [f"--model={model}", f"--light_coder={runs}/coder", f"--out={out}", "--ema"]
    assert export.main(["export", *arguments]) == 0
    assert "dit of step 7, vae of step 5, light_coder of step 8" in capsys.readouterr().out
    config, params = store.load_config(out), store.restore_host(out)
    origins = before["exported"]
    assert config["exported"] == origins | {
        "light_coder": {"run": f"{runs}/coder", "step": 8, "branch": "ema"}
    }
    assert config["light_coder"] == {"size": 4} and config["tau"] == before["tau"]
    weights = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    np.testing.assert_array_equal(params.pop("light_coder")["w"], weights * 4 + 1)
    jax.tree.map(np.testing.assert_array_equal, params, store.restore_host(model))


def test_text_given_by_hand_replaces_the_runs_own(runs, tmp_path):
    text = np.ones((4, 3), np.float32)
    torch_writer.write(tmp_path / "t.pt", {"": lazy.of_array(text)})
    texts = {"positive": str(tmp_path / "t.pt")}
    export.merge(str(tmp_path / "m"), {"dit": str(runs / "sr")}, texts=texts)
    params = store.restore_host(tmp_path / "m")
    np.testing.assert_array_equal(params["text"]["positive"], text)
    assert params["dit"]["mm_blocks"]["w"].dtype == np.float32


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--vae={runs}/predictor", "--out={tmp}/m"], "its config has no 'vae'"),
        (["--vae={runs}/absent", "--out={tmp}/m"], "no such checkpoint"),
        (["--vae={runs}/vae", "--out={runs}/vae"], "exists already"),
        (["--vae={runs}/vae"], "give --out"),
        (["--out={tmp}/m"], "at least one of --dit"),
        (["--vae={runs}/vae", "--out={tmp}/m", "--dtype=int8"], "bfloat16"),
        (["{runs}/vae", "--out={tmp}/m"], "belongs to no flag: write, for example, --dit="),
    ],
)
def test_bad_command_lines(runs, tmp_path, capsys, arguments, message):
    filled = [argument.format(runs=runs, tmp=tmp_path) for argument in arguments]
    assert export.main(["export", *filled]) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("export: ") and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_branch_must_be_there(runs, tmp_path):
    export.merge(str(tmp_path / "m"), {"vae": str(runs / "vae")})
    with pytest.raises(UserError, match="has averaged weights: leave out --ema"):
        export.merge(str(tmp_path / "n"), {"vae": str(tmp_path / "m")}, ema=True)
    # A model beside a run, as a converted autoencoder beside a trained transformer: each its best.
    mixed = {"vae": str(tmp_path / "m"), "dit": str(runs / "sr")}
    exported = export.merge(str(tmp_path / "o"), mixed, ema=True)["exported"]
    assert {part: exported[part]["branch"] for part in mixed} == {"vae": "params", "dit": "ema"}


@pytest.fixture(scope="module")
def two(runs, tmp_path_factory):
    """A model of two sets of weights: those of run sr, and the averages of a run that went on."""
    root = tmp_path_factory.mktemp("two")
    weights = np.arange(6, dtype=np.float32).reshape(2, 3) / 8
    dit = {"mm_blocks": {"rope_freqs": weights, "w": weights + 0.5}}
    train(root / "sharp", {"dit": dit, "text": {"positive": weights}}, {"dit": {"size": 3}}, 9)
    parts = {"dit": f"{runs}/sr", "vae": f"{runs}/vae"}
    config = export.merge(str(root / "model"), parts, sharp=str(root / "sharp"), dtype="bfloat16")
    assert config["sharp"] == ["dit", "text"]
    return root


def test_one_set_of_weights_is_made_of_two(two, tmp_path):
    before = store.restore_host(two / "model")
    assert before["sharp"]["change"]["dit"]["mm_blocks"]["w"].dtype == np.int8
    for sharpness in (0.0, 0.5, 1.0):
        out = tmp_path / f"{sharpness}"
        argv = ["export", f"--model={two}/model", f"--sharpness={sharpness}", f"--out={out}"]
        assert export.main(argv) == 0
        after, config = store.restore_host(out), store.load_config(out)
        assert "sharp" not in after and "sharp" not in config
        moved = [x["dit"]["mm_blocks"]["w"].astype(np.float32) for x in (before, after)]
        np.testing.assert_allclose(moved[1] - moved[0], 0.5 * sharpness, atol=0.01)
        np.testing.assert_array_equal(after["vae"]["w"], before["vae"]["w"])


def test_sharper_weights_stay_with_what_they_change(two, runs, tmp_path, capsys):
    argv = ["export", f"--model={two}/model", f"--predictor={runs}/predictor"]
    assert export.main([*argv, f"--out={tmp_path}/kept"]) == 0
    assert "sharper weights of dit, text" in capsys.readouterr().out
    kept, before = (store.restore_host(x)["sharp"] for x in (tmp_path / "kept", two / "model"))
    jax.tree.map(np.testing.assert_array_equal, kept, before)
    argv = ["export", f"--model={two}/model", f"--dit={runs}/sr", f"--out={tmp_path}/none"]
    assert export.main(argv) == 1
    assert "name the run that sharpens that as --sharp" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model={two}/model", "--sharpness=1.5"], "it must be from 0 to 1"),
        (["--vae={runs}/vae", "--sharpness=0.5"], "name the sharper one: --sharp"),
        (["--vae={runs}/vae", "--sharp={two}/sharp"], "has no part of vae that can be sharper"),
    ],
)
def test_sharpness_that_cannot_be(two, runs, tmp_path, capsys, arguments, message):
    argv = [argument.format(two=two, runs=runs) for argument in arguments]
    assert export.main(["export", *argv, f"--out={tmp_path}/none"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
