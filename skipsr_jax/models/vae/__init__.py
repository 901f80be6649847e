"""The causal video autoencoder: frames to latents and back, dense or sparse, slice by slice.

To read from the top down:

- ``config``: the sizes. ``model``: the ``VAE``, around ``encoder`` and ``decoder``.
- ``blocks``: resnets, downsampling and the levels. ``attention``, ``group_norm``, ``upsample`` and
  ``upsample_kernel``: the other layers. ``models.layers.causal_conv``: the convolution.
- ``spatial_tiles``: layers on a part of the frames at a time, to save memory.
- ``slices``: whole clips, slice by slice. ``memory``: how much a slice takes.
- ``sparse_encode``, ``sparse_decode``, ``sparse_layers``: the same on the blocks that need it.
"""

from skipsr_jax.models.vae.config import SEEDVR, TINY, VAEConfig
from skipsr_jax.models.vae.model import VAE, Posterior

__all__ = ["SEEDVR", "TINY", "VAE", "Posterior", "VAEConfig"]
