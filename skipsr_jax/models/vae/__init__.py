"""The causal video autoencoder: frames to latents and back, dense or sparse, slice by slice."""

from skipsr_jax.models.vae.model import (
    SEEDVR,
    TINY,
    VAE,
    Posterior,
    VAEConfig,
)

__all__ = ["SEEDVR", "TINY", "VAE", "Posterior", "VAEConfig"]
