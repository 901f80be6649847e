"""What a compiled program depends on, as parts of the name of the file that holds it."""

import functools
import hashlib
import os
import pathlib
from typing import Any

import jax
import jaxlib

import skipsr_jax


@functools.cache
def source_digest() -> str:
    """A digest of this package's Python source: another version may compile to another program."""
    root = pathlib.Path(skipsr_jax.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(str(path.relative_to(root)).encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def environment() -> tuple[str, ...]:
    """What a compiled program depends on besides its source and its arguments."""
    device = jax.devices()[0]
    settings = (
        jax.config.jax_default_matmul_precision,
        jax.config.jax_enable_x64,
        jax.config.jax_default_prng_impl,
        jax.config.jax_threefry_partitionable,
    )
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    return (
        jax.__version__,
        jaxlib.__version__,
        device.platform,
        device.device_kind,
        str(device.client.platform_version),
        str(jax.device_count()),
        repr(settings),
        *flags,
    )


def signature(leaf: Any) -> tuple:
    """What of one argument the compiled program depends on."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is not None and (
        len(sharding.device_set) == 1 or not getattr(leaf, "committed", True)
    ):
        sharding = None
    return leaf.shape, str(leaf.dtype), bool(getattr(leaf, "weak_type", False)), sharding


def digest(*facts: Any) -> str:
    """32 letters that stand for the facts."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
