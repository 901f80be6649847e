"""How the autoencoder's sub-layers run one after the other."""

import jax.numpy as jnp

from skipsr_jax.models.vae.blocks import Sublayer, run_in_order


def test_run_in_order_gives_each_sublayer_its_own_cache():
    def sublayer(step):
        return Sublayer("add", lambda x, cache: (x + step, (0 if cache is None else cache) + step))

    sublayers = [sublayer(1.0), sublayer(10.0)]
    for remat in (False, True):
        x, cache = run_in_order(sublayers, jnp.zeros(()), None, remat=remat)
        assert (x, *cache) == (11, 1, 10)
        _, cache = run_in_order(sublayers, x, cache, remat=remat)
        assert cache == (2, 20)
