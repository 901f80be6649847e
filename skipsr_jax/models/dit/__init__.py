"""The SeedVR / SeedVR2 diffusion transformer, which runs on kept tokens only."""

from skipsr_jax.models.dit.model import REMAT_POLICIES, Body, DiT, DiTConfig

__all__ = ["REMAT_POLICIES", "Body", "DiT", "DiTConfig"]
