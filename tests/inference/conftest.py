"""Fixtures of the tests of inference."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture
def cache_of_jax():
    """Off, unless a test sets its folder: what it supplies is not stored by ``ProgramCache``."""
    before = jax.config.jax_compilation_cache_dir

    def set_folder(folder):
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()

    set_folder(None)
    yield set_folder
    set_folder(before)
