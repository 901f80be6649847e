"""The named model sizes: the published 3B and 7B, tiny, whose weights ship here, and small."""

from skipsr_jax.models.dit import config as dit
from skipsr_jax.models.light_coder import config as light_coder
from skipsr_jax.models.vae import config as vae

DIT_PRESETS = {
    "tiny": dit.TINY,
    "small": dit.SMALL,
    "seedvr2_3b": dit.SEEDVR2_3B,
    "seedvr_7b": dit.SEEDVR_7B,
}
VAE_PRESETS = {
    "tiny": vae.TINY,
    "small": vae.TINY,
    "seedvr2_3b": vae.SEEDVR,
    "seedvr_7b": vae.SEEDVR,
}
"""The autoencoder that goes with each transformer."""
LIGHT_CODER_PRESETS = {
    "tiny": light_coder.TINY,
    "small": light_coder.SMALL,
    "seedvr2_3b": light_coder.SEEDVR,
    "seedvr_7b": light_coder.SEEDVR,
}
"""The light coder that goes with each transformer, beside its autoencoder."""
