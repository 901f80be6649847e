"""The SeedVR / SeedVR2 diffusion transformer, which runs on kept tokens only.

From the top: ``model`` (embeddings, stacks of blocks, output layer), ``block``, ``branch`` (weights
and per-token computation), ``attention``, ``window_rows`` (gathers to attention order), ``rope``,
``modulation``, ``mlp``; ``config`` has the sizes, ``remat`` what is stored for the backward pass.
"""

from skipsr_jax.models.dit.config import SEEDVR2_3B, SEEDVR_7B, TINY, DiTConfig
from skipsr_jax.models.dit.model import Body, DiT
from skipsr_jax.models.dit.remat import AUTO, REMAT_POLICIES

__all__ = [
    "AUTO",
    "REMAT_POLICIES",
    "SEEDVR2_3B",
    "SEEDVR_7B",
    "TINY",
    "Body",
    "DiT",
    "DiTConfig",
]
