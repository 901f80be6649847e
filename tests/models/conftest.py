"""Models filled with random numbers, made on the host: no program is compiled for them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from skipsr_jax.models.params import Params, abstract, to_dict


@pytest.fixture(scope="session")
def fill() -> Callable[[Callable[[nnx.Rngs], nnx.Module]], tuple[nnx.Module, Params]]:
    """``fill(build)`` -> the abstract module and parameters for it, of which none is zero."""

    def fill(build):
        module = abstract(build)
        rng = np.random.default_rng(0)

        def draw(leaf):
            if leaf.ndim == 1:
                return jnp.asarray(rng.normal(1.0, 0.1, leaf.shape), leaf.dtype)
            fan_in = np.prod(leaf.shape[:-1])
            return jnp.asarray(rng.normal(0.0, fan_in**-0.5, leaf.shape), leaf.dtype)

        return module, jax.tree.map(draw, to_dict(module))

    return fill
