"""The configs and the checkpoints that come with the package are found from any directory."""

import pathlib

import pytest

from skipsr_jax import resources
from skipsr_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_every_config_has_a_name():
    names = resources.config_names()
    assert names == sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    for name in names:
        assert pathlib.Path(resources.find_config(name)) == ROOT / "configs" / f"{name}.py"


@pytest.mark.parametrize("name", ["mine.py", "tiny", "folder/tiny.py"])
def test_a_file_that_exists_is_the_config(name):
    pathlib.Path("folder").mkdir()
    pathlib.Path(name).touch()
    assert resources.find_config(name) == name


def test_a_folder_of_the_same_name_is_no_config():
    pathlib.Path("tiny").mkdir()
    assert resources.find_config("tiny") == str(ROOT / "configs" / "tiny.py")


def test_an_unknown_name_asks_for_the_most_similar_one_and_lists_those_that_are_listed():
    said = r"no config 'seedvr2_3b_srr': did you mean seedvr2_3b_sr\? Else name a Python file or"
    with pytest.raises(UserError, match=said) as raised:
        resources.find_config("seedvr2_3b_srr")
    assert str(raised.value).split("one of ")[1].split(", ") == resources.config_names()
    with pytest.raises(UserError, match=r"'abc': name a Python file or one of tiny$"):
        resources.find_config("abc", lambda name: name == "tiny")


def test_a_path_that_does_not_exist_is_named_with_the_config_that_it_may_mean():
    with pytest.raises(UserError, match=r"no config file configs/tiny.py: --config=tiny names"):
        resources.find_config("configs/tiny.py")
    with pytest.raises(UserError, match=r"no config file mine.py$"):
        resources.find_config("mine.py")


def test_checkpoints_are_found_here_or_else_with_the_package():
    predictor = ROOT / "checkpoints" / "mask_predictor"
    assert resources.find_checkpoint("checkpoints/mask_predictor") == str(predictor)
    shipped = ROOT / "checkpoints" / "tiny"
    assert resources.find_checkpoint("checkpoints/tiny") == str(shipped)
    assert resources.find_checkpoint("./checkpoints/tiny") == str(shipped)
    pathlib.Path("checkpoints/tiny").mkdir(parents=True)
    assert resources.find_checkpoint("checkpoints/tiny") == "checkpoints/tiny"


@pytest.mark.parametrize("path", ["", "tiny", "checkpoints/absent", "gs://bucket/checkpoints/tiny"])
def test_other_paths_are_left_alone(path):
    assert resources.find_checkpoint(path) == path
