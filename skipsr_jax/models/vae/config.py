"""The sizes of the autoencoder: the configuration, and those that exist."""

import dataclasses

from skipsr_jax.config import require_between
from skipsr_jax.geometry import SPACE_FACTOR, TIME_FACTOR

LEVELS = 4
"""Resolutions: full, 1/2, 1/4 and 1/8."""
MOST_CHANNELS, MOST_BLOCKS, SCALING_FACTORS = 1 << 16, 64, (1e-4, 1e4)
"""Beyond any autoencoder: a config of such sizes is damaged."""


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """The autoencoder's sizes.

    Attributes:
      block_channels: of each level, from full to 1/8 resolution.
      layers_per_block: resnets in a level of the encoder; the decoder has one more.
      norm_groups: channel groups of the group norms.
      latent_channels: of the latent.
      scaling_factor: the diffusion model works on latents times this.
      residual_decoder: the decoder also takes the upscaled input and predicts what to add to it.
      remat: the backward pass computes the intermediates of each sub-layer again, instead of
        keeping them.
    """

    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    norm_groups: int = 32
    latent_channels: int = 16
    scaling_factor: float = 0.9152
    residual_decoder: bool = False
    remat: bool = False

    def __post_init__(self):
        if len(self.block_channels) != LEVELS:
            raise ValueError(
                f"block_channels has {len(self.block_channels)} entries; an autoencoder of "
                f"{SPACE_FACTOR} x {SPACE_FACTOR} x {TIME_FACTOR} has {LEVELS}"
            )
        for index, channels in enumerate(self.block_channels):
            require_between(f"block_channels[{index}]", channels, 1, MOST_CHANNELS)
        require_between("norm_groups", self.norm_groups, 1, MOST_CHANNELS)
        require_between("latent_channels", self.latent_channels, 1, MOST_CHANNELS)
        require_between("layers_per_block", self.layers_per_block, 1, MOST_BLOCKS)
        require_between("scaling_factor", self.scaling_factor, *SCALING_FACTORS)
        wrong = [c for c in self.block_channels if c % self.norm_groups]
        if wrong:
            raise ValueError(
                f"block_channels {wrong} are not multiples of norm_groups {self.norm_groups}"
            )


SEEDVR = VAEConfig()
"""The public autoencoder of SeedVR and SeedVR2: 250,648,227 parameters."""
TINY = VAEConfig(
    block_channels=(16, 32, 64, 64), layers_per_block=1, norm_groups=8, residual_decoder=True
)
"""The tiny model's, which ships here."""
