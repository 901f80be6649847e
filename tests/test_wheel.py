"""A wheel holds the configs, two checkpoints and the commands, and needs no checkout."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("checkpoints/tiny", "checkpoints/mask_predictor")
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder of an unpacked wheel, built from a copy of the repository."""
    pytest.importorskip("setuptools", "77", "building the wheel needs the extra test")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    for name in ("skipsr_jax", "configs", *SHIPPED):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    (source / "checkpoints" / "large" / "0").mkdir(parents=True)
    (source / "checkpoints" / "large" / "0" / "weights").touch()  # of a user: stays out
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
               "--disable-pip-version-check", f"--wheel-dir={folder}", source]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def files_below(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if "__pycache__" not in path.parts
    }


def test_it_holds_the_package_the_configs_and_two_checkpoints(unpacked):
    held = files_below(unpacked / "skipsr_jax")
    wanted = files_below(ROOT / "skipsr_jax")
    shipped = ((path, path.replace("checkpoints", "pretrained")) for path in SHIPPED)
    for folder, name in (("configs", "configs"), *shipped):
        found = files_below(ROOT / folder)
        wanted |= {f"{name}/{path}": content for path, content in found.items()}
    assert held.keys() == wanted.keys()
    assert held == wanted
    (metadata,) = (path for path in unpacked.iterdir() if path.name != "skipsr_jax")
    assert metadata.name.startswith("skipsr_jax-") and metadata.suffix == ".dist-info"


def test_it_names_the_commands_and_the_extras(unpacked):
    (metadata,) = unpacked.glob("*.dist-info")
    entries = configparser.ConfigParser()
    entries.read(metadata / "entry_points.txt")
    names = ("infer", "train", "convert", "export", "data")
    assert dict(entries["console_scripts"]) == {
        f"skipsr-{name}": f"skipsr_jax.cli.commands:{name}" for name in names
    }
    lines = (metadata / "METADATA").read_text().splitlines()
    extras = {line.split(": ")[1] for line in lines if line.startswith("Provides-Extra: ")}
    assert extras == {"cuda", "tpu", "train", "test", "evaluation", "hub", "wandb"}
    required = [line for line in lines if line.startswith("Requires-Dist: ")]
    core = [line for line in required if "extra ==" not in line]
    for name in ("grain", "tensorflow-datasets", "importlib_resources", "tensorboardX"):
        assert any(name in line for line in required)
        assert not any(name in line for line in core)


@pytest.fixture
def run(unpacked, tmp_path, monkeypatch):
    """Runs a command of the wheel in an empty folder. Returns what it printed."""
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {
        "PYTHONPATH": str(unpacked),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }

    def of(name, *arguments):
        start = (
            "import sys\nfrom importlib.metadata import entry_points\n"
            "sys.argv[0] = name = sys.argv.pop(1)\n"
            "(entry,) = entry_points(group='console_scripts', name=name)\n"
            "program = entry.load()\n"
            f"assert sys.modules['skipsr_jax'].__file__.startswith({str(unpacked)!r})\n"
            "sys.exit(program())"
        )
        command = [sys.executable, "-c", start, name, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return of


def test_its_configs_are_found_by_name(run):
    said = run("skipsr-infer", "--config=seedvr2_3b", "--help")
    assert "--config.checkpoint='checkpoints/seedvr2_3b'" in said
    # This config reads the file of another one beside it.
    said = run("skipsr-train", "--config=seedvr_7b_sr", "--help")
    assert "--config.model='seedvr_7b'" in said and "--config.data.pan_share=0.1" in said


@pytest.mark.parametrize("name", ["convert", "export", "data"])
def test_its_tools_say_what_they_take(run, name):
    assert "--out" in run(f"skipsr-{name}", "--help")


def test_it_upscales_with_its_checkpoint(run, unpacked, tmp_path):
    Image.effect_noise((24, 16), 40).convert("RGB").save("small.png")
    said = run("skipsr-infer", "--input=small.png", "--config.size.factor=2")
    assert f"model {unpacked}/skipsr_jax/pretrained/tiny" in said
    assert f"predictor of {unpacked}/skipsr_jax/pretrained/mask_predictor" in said
    assert Image.open(tmp_path / "outputs" / "small_x2.png").size == (48, 32)
