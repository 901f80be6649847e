"""The parameters that a config asks for, and the key table that belongs to them."""

import functools

from flax import nnx

from skipsr_jax.checkpoints.keys import Entry, dit_entries, vae_entries
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import Params, abstract, to_dict
from skipsr_jax.models.vae import VAE, VAEConfig


def abstract_params(config: DiTConfig | VAEConfig) -> Params:
    """Shapes of all parameters of the network; allocates nothing."""
    network = DiT if isinstance(config, DiTConfig) else VAE
    return to_dict(abstract(lambda: network(config, rngs=nnx.Rngs(0))))


@functools.lru_cache(maxsize=8)  # tracing a network takes a second or two
def entries(config: DiTConfig | VAEConfig) -> list[Entry]:
    """The official tensors of the network (one list for all callers: do not change it)."""
    params = abstract_params(config)
    if isinstance(config, DiTConfig):
        return dit_entries(params, video_only_at_last=config.plain_text_at_last)
    return vae_entries(params)
