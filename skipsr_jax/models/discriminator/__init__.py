"""Discriminators: the transformer of adversarial post-training, and one of decoded frames."""

from skipsr_jax.models.discriminator.model import Discriminator, body_of
from skipsr_jax.models.discriminator.patch import PatchDiscriminator

__all__ = ["Discriminator", "PatchDiscriminator", "body_of"]
