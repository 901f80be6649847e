"""Finds files of weights by path, checks their sha256, and says what was found.

The folder that a user names with --weights holds the public files under their public names. A file
whose hash is not the public file's is read too, but the report says that its scores are not those
that others publish.
"""

import dataclasses
import hashlib
import importlib.util
import os
import pathlib
from collections.abc import Callable

from skipsr_jax.checkpoints import torch_file
from skipsr_jax.errors import UserError
from skipsr_jax.types import HostArray


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """A public file of weights.

    Attributes:
      names: under which it is looked for in the folder, the usual one first.
      sha256: of the public file, or the first digits of it.
      source: where a user gets it.
      package: a Python package and the path in it, where it is looked for too (the package is
        found, not imported); None: it is in no package.
    """

    names: tuple[str, ...]
    sha256: str
    source: str
    package: tuple[str, str] | None = None


_SUFFIXES = (".pth", ".pt", ".mat")

ALEXNET = WeightFile(
    ("alexnet-owt-7be5be79.pth",),
    "7be5be79",  # torchvision checks these digits, which are in the file's name
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
)
VGG16 = WeightFile(
    ("vgg16-397923af.pth",),
    "397923af",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
)
LPIPS_ALEX = WeightFile(
    ("lpips_alex.pth", "lpips/weights/v0.1/alex.pth", "alex.pth"),
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "lpips/weights/v0.1/alex.pth in the wheel of lpips 0.1.4 (pip download --no-deps lpips)",
    ("lpips", "weights/v0.1/alex.pth"),
)
LPIPS_VGG = WeightFile(
    ("lpips_vgg.pth", "lpips/weights/v0.1/vgg.pth", "vgg.pth"),
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "lpips/weights/v0.1/vgg.pth in the wheel of lpips 0.1.4 (pip download --no-deps lpips)",
    ("lpips", "weights/v0.1/vgg.pth"),
)
DISTS = WeightFile(
    ("dists.pt", "DISTS_pytorch/weights.pt", "weights.pt"),
    "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
    "DISTS_pytorch/weights.pt in the wheel of dists-pytorch 0.1 (pip download --no-deps "
    "dists-pytorch)",
    ("DISTS_pytorch", "weights.pt"),
)


class Weights:
    """The weights that a user has.

    Args:
      folder: with the files; None: only packages are looked at.

    Attributes:
      used: one line for each file that was read: its path and whose hash it has.
    """

    def __init__(self, folder: str | os.PathLike | None):
        self._folder = None if folder is None else pathlib.Path(folder)
        self.used: dict[str, str] = {}
        if self._folder is not None and not self._folder.is_dir():
            raise UserError(f"--weights: there is no folder {folder}")

    def files(self) -> list[pathlib.Path]:
        """The files of weights in the folder, at any depth."""
        found = sorted(self._folder.rglob("*")) if self._folder else []
        return [path for path in found if path.suffix in _SUFFIXES]

    def find(self, *names: str) -> pathlib.Path | None:
        """The first of these files that the folder has."""
        paths = [self._folder / name for name in names] if self._folder else []
        return next((path for path in paths if path.exists()), None)

    def read(self, file: WeightFile) -> dict[str, HostArray]:
        """Reads the tensors of a file by name.

        Raises UserError when the file is not there, saying where it comes from, or damaged.
        """
        path = self.find(*file.names) or package_file(file.package)
        if path is None:
            raise UserError(f"needs {file.names[0]} in the folder --weights; it is {file.source}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        public = digest.startswith(file.sha256)
        verdict = "the public file" if public else "NOT the public file: no published score is so"
        self.used[str(path)] = f"sha256 {digest[:16]}, {verdict}"
        return {name: tensor.load() for name, tensor in torch_file.read(path).items()}


def package_file(package: tuple[str, str] | None) -> pathlib.Path | None:
    """The path of a file in an installed package, which is not imported; None: not there."""
    spec = importlib.util.find_spec(package[0]) if package else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = pathlib.Path(spec.submodule_search_locations[0]) / package[1]
    return path if path.is_file() else None


def tensor_named(
    tensors: dict[str, HostArray], name: str, shape: tuple[int, ...], source: str
) -> HostArray:
    """A tensor of a file, float32. Raises UserError when it is missing or of another shape."""
    found = tensors.get(name)
    if found is None or found.shape != shape:
        have = "there is none" if found is None else f"it has shape {found.shape}"
        raise UserError(f"{source}: {name} must have shape {shape}, but {have}")
    return found.astype("float32")


Reader = Callable[[WeightFile], dict[str, HostArray]]
