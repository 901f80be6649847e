"""The numbers that make a transformer of SeedVR's family, and those of the known ones."""

import dataclasses

from skipsr_jax.config import require, require_between, require_one_of
from skipsr_jax.models.dit.remat import AUTO, REMAT_POLICIES

_LARGEST = {
    **dict.fromkeys(("width", "text_width", "head_dim", "in_channels", "out_channels"), 1 << 16),
    **dict.fromkeys(("heads", "layers", "expand_ratio"), 1 << 10),
}
"""Sizes beyond any transformer: a config of them is damaged."""


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """The numbers of a transformer.

    Attributes:
      width: model width d; the residual stream of video and text.
      text_width: of the text embeddings that come in.
      heads, head_dim: inner width is heads * head_dim.
      layers: blocks in all. mm_layers: the first of them, whose video and text have own weights.
      expand_ratio: of the feed-forward.
      gated_mlp: SwiGLU without biases, else GELU with biases.
      pixel_rope: positions spread over [-1, 1], else counted from 0 in each window.
      rope_dim: channels of a head from which the rotated ones are taken, a third per axis.
      output_modulation: norm and modulate tokens before the output layer. The modulation is the
        attention part of the time embedding, which the released weights rely on.
      plain_text_at_last: the last block does not modulate its text before attention.
      in_channels: noisy latent 16, condition latent 16, mask 1. out_channels: velocity.
      norm_eps: of all RMS norms.
      remat: a key of ``REMAT_POLICIES``, or ``AUTO``.
    """

    width: int
    text_width: int
    heads: int
    head_dim: int
    layers: int
    mm_layers: int
    expand_ratio: int
    gated_mlp: bool
    pixel_rope: bool
    rope_dim: int
    output_modulation: bool
    plain_text_at_last: bool
    in_channels: int = 33
    out_channels: int = 16
    norm_eps: float = 1e-5
    remat: str = "none"

    def __post_init__(self):
        for name, most in _LARGEST.items():
            require_between(name, getattr(self, name), 1, most)
        require_between("rope_dim", self.rope_dim, 1, self.head_dim)
        require(0 < self.norm_eps < 1, "norm_eps", self.norm_eps, "above 0 and below 1")
        if not 0 <= self.mm_layers <= self.layers or self.layers < 1:
            raise ValueError(
                f"mm_layers must lie in 0..layers, got {self.mm_layers} of {self.layers} layers"
            )
        require_one_of("remat", self.remat, (AUTO, *REMAT_POLICIES))


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
layer lets training start from the condition itself: ``training.stages.sr.start_from_condition``."""

SMALL = dataclasses.replace(TINY, layers=10)
"""The tiny model's, with more blocks: its training begins where that of the tiny model ended
(``models.growth``)."""
