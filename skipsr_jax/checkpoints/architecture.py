"""Finds the config of a network from the names and shapes of its official tensors.

Whether a file is complete is not decided here: the config is the one that fits best, and the key
table then names every tensor that does not fit it.
"""

import math
import re
from collections.abc import Iterable

from skipsr_jax.checkpoints.lazy import LazyTensor
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import PATCH_AREA
from skipsr_jax.models.dit import DiTConfig
from skipsr_jax.models.dit.mlp import gated_hidden
from skipsr_jax.models.vae import VAEConfig

# Of the released autoencoder: shapes do not show the number of groups of its norms.
_OFFICIAL_NORM_GROUPS = 32
_OFFICIAL_EXPAND_RATIO = 4
_MAX_EXPAND_RATIO = 16

Shapes = dict[str, tuple[int, ...]]


def shapes_of(tensors: dict[str, LazyTensor]) -> Shapes:
    """The shapes of tensors by name."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def _find(shapes: Shapes, pattern: str, source: str) -> tuple[int, ...]:
    """The shape of the first tensor whose name matches; UserError when there is none."""
    found = next((shape for name, shape in shapes.items() if re.fullmatch(pattern, name)), None)
    if found is None or 0 in found:
        name = pattern.replace(r"\d+", "N").replace("\\", "")
        raise UserError(f"{source}: has no {name}, which this kind of network needs")
    return found


def _indices(shapes: Shapes, pattern: str, source: str) -> set[int]:
    """All numbers that the group of ``pattern`` matches in the names: 0, 1, ... without a gap.

    Raises UserError where one is missing: a config of as many layers as the largest number says
    might not fit any memory.
    """
    found = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    if found and max(found) >= len(found):
        first = min(set(range(len(found) + 1)) - found)
        name = re.sub(r"\(.*?\)", str(first), pattern, count=1).replace("\\", "")
        raise UserError(f"{source}: has no tensors of {name.rstrip('.')}, but of later ones")
    return found


def _expand_ratio(width: int, hidden: int, gated: bool) -> int:
    ratios: Iterable[int] = (_OFFICIAL_EXPAND_RATIO, *range(1, _MAX_EXPAND_RATIO + 1))
    for ratio in ratios:
        if hidden == (gated_hidden(width, ratio) if gated else width * ratio):
            return ratio
    return _OFFICIAL_EXPAND_RATIO  # the key table then names the shapes that do not fit


def is_dit(shapes: Shapes) -> bool:
    """Whether most of the names are those of a DiT."""
    return sum(name.startswith("blocks.") for name in shapes) > len(shapes) / 2


def is_vae(shapes: Shapes) -> bool:
    """Whether most of the names are those of an autoencoder."""
    return sum(name.startswith(("encoder.", "decoder.")) for name in shapes) > len(shapes) / 2


def dit_config(shapes: Shapes, source: str) -> DiTConfig:
    """Returns the config of the DiT that has these tensors.

    It is of the 3B kind if its MLP is gated, else of the 7B kind. ``source`` names the file in
    errors. Raises UserError when the names are not those of a SeedVR transformer, or when a tensor
    whose shape gives a size is missing.
    """
    if not is_dit(shapes):
        names = ", ".join(list(shapes)[:3])
        raise UserError(f"{source}: not a SeedVR transformer (its tensors: {names}, ...)")
    width, patch = _find(shapes, r"vid_in\.proj\.weight", source)
    (head_dim,) = _find(shapes, r"blocks\.\d+\.attn\.norm_q\.\w+\.weight", source)
    inner = _find(shapes, r"blocks\.\d+\.attn\.proj_qkv\.\w+\.weight", source)[0]
    hidden = _find(shapes, r"blocks\.\d+\.mlp\.\w+\.proj_in\.weight", source)[0]
    text_width = shapes.get("txt_in.weight", (width, width))[-1]
    outputs = _find(shapes, r"vid_out\.proj\.weight", source)[0]
    gated = any(name.endswith(".proj_in_gate.weight") for name in shapes)
    own = _indices(shapes, r"blocks\.(\d+)\.attn\.proj_qkv\.vid\.", source)
    return DiTConfig(
        width=width,
        text_width=text_width,
        heads=inner // (3 * head_dim),
        head_dim=head_dim,
        layers=max(_indices(shapes, r"blocks\.(\d+)\.", source)) + 1,
        mm_layers=max(own, default=-1) + 1,
        expand_ratio=_expand_ratio(width, hidden, gated),
        gated_mlp=gated,
        pixel_rope=not gated,
        rope_dim=head_dim if gated else head_dim // 2,
        output_modulation="vid_out_norm.weight" in shapes or "vid_out_ada.out_shift" in shapes,
        plain_text_at_last=gated,
        in_channels=patch // PATCH_AREA,
        out_channels=outputs // PATCH_AREA,
    )


def vae_config(shapes: Shapes, source: str, norm_groups: int | None = None) -> VAEConfig:
    """Returns the config of the autoencoder that has these tensors.

    ``norm_groups`` does not follow from shapes. Its default is 32, as in the released autoencoder,
    if that divides all widths, else their greatest common divisor. Raises UserError as `dit_config`
    does.
    """
    if not is_vae(shapes):
        names = ", ".join(list(shapes)[:3])
        raise UserError(f"{source}: not a SeedVR autoencoder (its tensors: {names}, ...)")
    levels = range(max(_indices(shapes, r"encoder\.down_blocks\.(\d+)\.", source), default=-1) + 1)
    block = r"encoder\.down_blocks\.{}\.resnets\.0\.conv1\.weight"
    channels = tuple(_find(shapes, block.format(level), source)[0] for level in levels)
    if norm_groups is None:
        widest = math.gcd(*channels)
        norm_groups = _OFFICIAL_NORM_GROUPS if widest % _OFFICIAL_NORM_GROUPS == 0 else widest
    layers = _indices(shapes, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.", source)
    try:
        return VAEConfig(
            block_channels=channels,
            layers_per_block=max(layers) + 1,
            norm_groups=norm_groups,
            latent_channels=_find(shapes, r"decoder\.conv_in\.weight", source)[1],
            residual_decoder="decoder.upscaled_half.weight" in shapes,
        )
    except ValueError as error:
        raise UserError(f"{source}: not a SeedVR autoencoder: {error}") from error
