"""How the autoencoder's sub-layers run one after the other, and space to depth."""

import jax.numpy as jnp
import numpy as np

from skipsr_jax.models.vae.blocks import Sublayer, run_in_order, space_to_depth


def test_space_to_depth_reads_row_by_row():
    x = jnp.arange(16.0).reshape(1, 1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x)[0, 0, 0, 1], [2, 3, 6, 7])


def test_run_in_order_gives_each_sublayer_its_own_cache():
    def sublayer(step):
        return Sublayer("add", lambda x, cache: (x + step, (0 if cache is None else cache) + step))

    sublayers = [sublayer(1.0), sublayer(10.0)]
    for remat in (False, True):
        x, cache = run_in_order(sublayers, jnp.zeros(()), None, remat=remat)
        assert (x, *cache) == (11, 1, 10)
        _, cache = run_in_order(sublayers, x, cache, remat=remat)
        assert cache == (2, 20)
