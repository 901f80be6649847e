"""The transformer discriminator of adversarial post-training."""

from skipsr_jax.models.discriminator.model import Discriminator, body_of

__all__ = ["Discriminator", "body_of"]
