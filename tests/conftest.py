"""What every test gets: CPU with eight virtual devices, checked shapes, and the reference data."""

import atexit
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    )

if os.environ["JAX_PLATFORMS"] == "cpu":
    # The suite compiles far more than it computes: unoptimised programs halve its time.
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        # Compiled programs of this session, shared by the workers and the processes of tests: they
        # inherit the environment. Programs that compile faster than that are not worth a file.
        compiled = tempfile.mkdtemp(prefix="skipsr_compiled_")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
        atexit.register(shutil.rmtree, compiled, ignore_errors=True)

# Where infer.py keeps its programs by default: not in the folder of whoever runs the tests.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="skipsr_cache_")

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh
from jaxtyping import install_import_hook

atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

ROOT = pathlib.Path(__file__).resolve().parent.parent

install_import_hook("skipsr_jax", "beartype.beartype")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The reference data: golden numbers and real clips. Named by SKIPSR_SHARED."""
    path = pathlib.Path(os.environ.get("SKIPSR_SHARED", ROOT.parent / "shared")).resolve()
    if not (path / "golden").is_dir():
        pytest.skip(
            f"no reference data at {path}; set SKIPSR_SHARED to the folder that holds golden/"
        )
    return path


@pytest.fixture(scope="session", params=["official", "small"])
def golden(request) -> pathlib.Path:
    """A golden pack: numbers of the official code (in the reference data), or those committed here.

    Tests take all sizes from the pack: tests/parity/make_golden.py writes packs of other sizes.
    """
    if request.param == "official":
        return request.getfixturevalue("shared") / "golden"
    return ROOT / "tests" / "parity" / "golden_small"


@pytest.fixture
def abstract_h200():
    """Programs of the test are lowered for an H200."""
    device = AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="cuda")
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        yield
