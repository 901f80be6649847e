"""The SeedVR / SeedVR2 diffusion transformer, which runs on kept tokens only.

From the top: ``model`` (embeddings, stacks of blocks, output layer), ``block``, ``branch`` (weights
and per-token computation), ``attention``, ``window_rows`` (gathers to attention order), ``rope``,
``modulation``, ``mlp``; ``config`` has the sizes.
"""

from skipsr_jax.models.dit.config import REMAT_POLICIES, SEEDVR2_3B, SEEDVR_7B, TINY, DiTConfig
from skipsr_jax.models.dit.model import Body, DiT

__all__ = ["REMAT_POLICIES", "SEEDVR2_3B", "SEEDVR_7B", "TINY", "Body", "DiT", "DiTConfig"]
