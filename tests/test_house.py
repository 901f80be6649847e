"""The picture of the rooms stays true: who may import whom, how long a file is, what opens it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "skipsr_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400  # lines; most files end by 300

# Each room and the rooms that it may import, besides itself and the floor below all rooms.
FLOOR = {"types", "errors", "geometry"}
MAY_IMPORT = {
    "types": set(),
    "errors": set(),
    "geometry": set(),
    "commandline": set(),
    "media": set(),
    "tokens": set(),
    "diffusion": set(),
    "kernels": set(),
    "parallel": set(),
    "data": {"media", "tokens", "commandline"},
    "pixels": {"tokens"},
    "models": {"tokens", "diffusion", "kernels", "parallel"},
    "checkpoints": {"models", "commandline"},
    "evaluation": {"models", "tokens", "data", "media", "checkpoints"},
    "training": {
        "models", "tokens", "diffusion", "kernels", "parallel", "pixels", "media", "data",
        "checkpoints", "evaluation",
    },
    "cli": {"commandline", "inference", "training", "media", "parallel", "checkpoints", "data"},
    "inference": {
        "models", "tokens", "diffusion", "kernels", "parallel", "pixels", "media", "checkpoints",
    },
}  # fmt: skip
NOT_AT_RUN_TIME = {"torch", "tensorflow", "skvideo", "safetensors", "beartype", "pytest"}
# Data workers are many processes without a device.
WITHOUT_JAX = {"media", "data"}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_rooms_import_in_one_direction(path):
    room = room_of(path)
    if room == "__init__":
        return
    allowed = MAY_IMPORT[room] | FLOOR | {room}
    for module in imported(path):
        top, *rest = module.split(".")
        assert top != "configs", f"{names(path)} imports {module}: nobody imports configs"
        assert top not in NOT_AT_RUN_TIME, f"{names(path)} imports {module}"
        assert top != "jax" or room not in WITHOUT_JAX, f"{names(path)} imports {module}"
        if top == "skipsr_jax" and rest:
            assert rest[0] in allowed, f"{names(path)} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=names)
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), f"{names(path)} has no docstring"


def test_every_room_is_in_the_picture():
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms == set(MAY_IMPORT)
