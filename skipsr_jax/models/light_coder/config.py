"""The sizes of the light coder: the configuration, and those that exist."""

import dataclasses

from skipsr_jax.config import require, require_between
from skipsr_jax.models.vae.config import MOST_BLOCKS, MOST_CHANNELS, SCALING_FACTORS

LEVELS = 3
"""Resolutions at which the light coder works: 1/2, 1/4 and 1/8."""


@dataclasses.dataclass(frozen=True)
class LightCoderConfig:
    """The light coder's sizes. Tuples list the levels at 1/2, 1/4 and 1/8 of the resolution.

    Attributes:
      encoder_channels, decoder_channels: of each level.
      encoder_blocks, decoder_blocks: residual blocks of each level. All at 1/8 and the first of the
        decoder at 1/4 take the frame before as well.
      latent_channels: of the latent, which is the full autoencoder's.
      scaling_factor: the diffusion model works on latents times this, as in the full autoencoder.
    """

    encoder_channels: tuple[int, int, int] = (64, 128, 256)
    encoder_blocks: tuple[int, int, int] = (1, 1, 2)
    decoder_channels: tuple[int, int, int] = (64, 128, 256)
    decoder_blocks: tuple[int, int, int] = (2, 2, 3)
    latent_channels: int = 16
    scaling_factor: float = 0.9152

    def __post_init__(self):
        for name in ("encoder_channels", "encoder_blocks", "decoder_channels", "decoder_blocks"):
            sizes = getattr(self, name)
            require(len(sizes) == LEVELS, name, sizes, f"{LEVELS} numbers")
            most = MOST_BLOCKS if name.endswith("blocks") else MOST_CHANNELS
            for index, size in enumerate(sizes):
                require_between(f"{name}[{index}]", size, 1, most)
        require_between("latent_channels", self.latent_channels, 1, MOST_CHANNELS)
        require_between("scaling_factor", self.scaling_factor, *SCALING_FACTORS)

    @property
    def encoder_halo(self) -> int:
        """Pixels around a part of the frames that its part of the 1/8 level depends on."""
        return 4 * self.encoder_quarter_halo

    @property
    def encoder_quarter_halo(self) -> int:
        """``encoder_halo`` in pixels of the 1/4 level."""
        return 2 * self.encoder_blocks[1] + -(-self.encoder_half_shrink // 2)

    @property
    def encoder_half_shrink(self) -> int:
        """Pixels that the convolutions of the encoder's 1/2 level take off each side."""
        return 1 + 2 * self.encoder_blocks[0]

    @property
    def decoder_half_halo(self) -> int:
        """Pixels of the 1/2 level around a part of the frames that it depends on."""
        return 1 + 2 * self.decoder_blocks[0]

    @property
    def decoder_quarter_halo(self) -> int:
        """Pixels of the 1/4 level around a part of the frames that it depends on."""
        return 2 * self.decoder_blocks[1] + -(-self.decoder_half_halo // 2)


SEEDVR = LightCoderConfig()
"""For the latent of SeedVR and SeedVR2."""
TINY = LightCoderConfig(
    encoder_channels=(16, 32, 64),
    encoder_blocks=(1, 1, 2),
    decoder_channels=(24, 48, 96),
    decoder_blocks=(2, 2, 3),
)
"""For the tiny model's latent."""
SMALL = LightCoderConfig(
    encoder_channels=(24, 48, 104),
    encoder_blocks=(1, 1, 2),
    decoder_channels=(40, 160, 160),
    decoder_blocks=(2, 8, 3),
)
"""For the small model's latent: 7.2 million parameters, 11 times the operations of the tiny one's.
Most of them lie at the decoder's 1/4 level, where an input of a quarter of the size has its pixels
and a convolution costs a quarter of one at 1/2."""
