"""The model sizes, as values. 3B and 7B are the published ones; tiny is the one that ships here."""

from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.vae import model as vae

SEEDVR2_3B = DiTConfig(
    width=2560,
    text_width=5120,
    heads=20,
    head_dim=128,
    layers=32,
    mm_layers=10,
    expand_ratio=4,
    gated_mlp=True,
    pixel_rope=False,
    rope_dim=128,
    output_modulation=True,
    plain_text_at_last=True,
)
"""SeedVR-3B and SeedVR2-3B: 3,391,475,776 parameters."""

SEEDVR_7B = DiTConfig(
    width=3072,
    text_width=5120,
    heads=24,
    head_dim=128,
    layers=36,
    mm_layers=36,
    expand_ratio=4,
    gated_mlp=False,
    pixel_rope=True,
    rope_dim=64,
    output_modulation=False,
    plain_text_at_last=False,
)
"""SeedVR-7B and SeedVR2-7B: 8,239,607,872 parameters."""

TINY = DiTConfig(
    width=192,
    text_width=64,
    heads=4,
    head_dim=48,
    layers=4,
    mm_layers=1,
    expand_ratio=4,
    gated_mlp=True,
    pixel_rope=False,
    rope_dim=48,
    output_modulation=False,
    plain_text_at_last=True,
)
"""Of SeedVR2-3B's kind, at a size that trains in minutes and runs on a laptop. The plain output
layer lets training start from the condition itself (``training.sr.start_from_condition``)."""

DIT_PRESETS = {"tiny": TINY, "seedvr2_3b": SEEDVR2_3B, "seedvr_7b": SEEDVR_7B}
VAE_PRESETS = {"tiny": vae.TINY, "seedvr2_3b": vae.SEEDVR, "seedvr_7b": vae.SEEDVR}
"""The autoencoder that goes with each transformer."""
