"""The light coder: a small encoder and decoder for the latent of a full autoencoder.

- ``config``: the sizes, and the halos that follow from them. ``model``: ``LightCoder``, around
  ``encoder`` and ``decoder``. ``layers``: the convolution and the residual block.
"""

from skipsr_jax.models.light_coder.config import SEEDVR, TINY, LightCoderConfig
from skipsr_jax.models.light_coder.model import LightCoder

__all__ = ["SEEDVR", "TINY", "LightCoder", "LightCoderConfig"]
