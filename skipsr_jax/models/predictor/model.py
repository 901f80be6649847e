"""The mask predictor: which patches of a clip need the transformer, from the input alone.

Paper section 4.2: four layers of 3D convolution with ReLU between them on the low-quality latent;
the first has stride (1, 2, 2), so that one logit stands for one patch of 1 x 2 x 2 latents. A
positive logit means "run the transformer here". This is the predictor of the 3B and 7B models.

The pixel-space variant puts the same layers on energies of the low-resolution frames
(skipsr_jax.models.predictor.pixel_energies). It knows neither autoencoder nor transformer, so one
serves every model, and masks are there before anything is encoded.

Padding: time repeats the first and the last frame, so that a single image is treated as a still
video; space is zero padded. The convolutions are not causal: the predictor runs once, on the whole
latent.
"""

import dataclasses
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.config import require_between
from skipsr_jax.geometry import PATCH, PATCH_FRAMES
from skipsr_jax.models.layers.causal_conv import conv3d
from skipsr_jax.models.layers.initial import drawn, filled
from skipsr_jax.models.predictor import pixel_energies
from skipsr_jax.models.predictor.pixel_energies import MIRROR_AXES, CellWeights, PixelEnergies
from skipsr_jax.parallel.fsdp import gathered
from skipsr_jax.parallel.spatial import constrain_spatial
from skipsr_jax.types import DType, Float

_LAYERS = 4


_MOST_CHANNELS = 1 << 16
"""Beyond any predictor: a config of such sizes is damaged."""


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """What the predictor's input is, and its size.

    Attributes:
      width: channels of the three hidden layers.
      latent_channels: of the autoencoder; ``latent`` only.
      space: ``latent``, the paper's, or ``pixels``.
      filters: learned filters on the input frames; ``pixels`` only.
    """

    width: int = 648
    latent_channels: int = 16
    space: Literal["latent", "pixels"] = "latent"
    filters: int = 16

    def __post_init__(self):
        for name in ("width", "latent_channels", "filters"):
            require_between(name, getattr(self, name), 1, _MOST_CHANNELS)


PAPER = PredictorConfig()  # 22,974,193 parameters; the paper says 23 M
TINY = PredictorConfig(width=48)


_MATRIX_UNIT_CHANNELS = 128
"""Output channels that a matrix unit computes together."""
_MOST_EXTRA_CHANNELS = 8
"""Up to this many output channels beyond whole matrix units are computed apart from the others."""
LOW_RES_PATCH_PIXELS = PATCH * pixel_energies.CELL
"""Pixels along the side of a patch, in frames that are 4 times smaller than the target: 4."""


def _conv3d_few_outputs(
    x: Float[Array, "b f_in h w i"], kernel: Float[Array, "3 3 3 i o"]
) -> Float[Array, "b f_out h w o"]:
    """The convolution as one matrix product, which gives a map for each tap TYX, and shifted sums.

    A convolution with few outputs leaves a matrix unit idle. The result is float32.
    """
    maps = jnp.einsum("bfhwi,TYXio->bfhwTYXo", x, kernel, preferred_element_type=jnp.float32)
    maps = jnp.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1), *[(0, 0)] * 4))
    frames, height, width = x.shape[1] - 2, *x.shape[2:4]
    shifted = (
        maps[:, i : i + frames, j : j + height, k : k + width, i, j, k]
        for i, j, k in itertools.product(range(3), repeat=3)
    )
    return sum(shifted)


def _conv3d_by_matrix_units(
    x: Float[Array, "b f_in h w i"], kernel: Float[Array, "3 3 3 i o"]
) -> Float[Array, "b f_out h w o"]:
    """The convolution, with the last few output channels computed apart from whole matrix units.

    Of 648 channels (the paper's width) the last 8 would have a matrix unit of 128 to themselves.
    """
    channels = kernel.shape[-1]
    extra = channels % _MATRIX_UNIT_CHANNELS
    if extra == 0 or extra > _MOST_EXTRA_CHANNELS:
        return conv3d(x, kernel)
    whole, rest = jnp.split(kernel, [channels - extra], axis=-1)
    y = _conv3d_few_outputs(x, rest)
    if extra == channels:
        return y
    return jnp.concatenate([conv3d(x, whole), y.astype(x.dtype)], axis=-1)


class _NonCausalConv3d(nnx.Module):
    """3 x 3 x 3 convolution over one frame before, the frame and one after; edge frames repeat."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        stride: int,
        kernel_init: jax.nn.initializers.Initializer,
        *,
        rngs: nnx.Rngs,
        param_dtype: DType,
    ):
        shape = (3, 3, 3, features_in, features_out)
        self.kernel = drawn(kernel_init, rngs, shape, param_dtype)
        self.bias = filled(0.0, rngs, (features_out,), param_dtype)
        self.stride = stride

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b t h_out w_out o"]:
        """Computes in x's dtype; ``stride`` is that of height and width."""
        x = jnp.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
        kernel = self.kernel[...].astype(x.dtype)
        if self.stride == 1:
            y = _conv3d_by_matrix_units(x, kernel)
        else:
            y = conv3d(x, kernel, (1, self.stride, self.stride))
        return y + self.bias[...].astype(y.dtype)


class MaskPredictor(nnx.Module):
    """Latents (scaled, as the transformer takes them) -> one logit per patch, in float32."""

    def __init__(
        self,
        config: PredictorConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
    ):
        he = jax.nn.initializers.he_normal(in_axis=(0, 1, 2, 3), out_axis=4)
        lecun = jax.nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3), out_axis=4)
        widths = (config.latent_channels, *[config.width] * (_LAYERS - 1), 1)
        self.layers = nnx.List(
            [
                _NonCausalConv3d(
                    widths[i],
                    widths[i + 1],
                    PATCH if i == 0 else 1,
                    he if i < _LAYERS - 1 else lecun,  # he: half the numbers pass a ReLU
                    rngs=rngs,
                    param_dtype=param_dtype,
                )
                for i in range(_LAYERS)
            ]
        )
        self.dtype = dtype

    def __call__(self, latent: Float[Array, "b t h w c"]) -> Float[Array, "b t r q"]:
        """Logits with r = h / 2 and q = w / 2. Raises ValueError when h or w is odd."""
        height, width = latent.shape[2:4]
        if height % PATCH or width % PATCH:
            raise ValueError(
                f"the latent is {height} x {width}; both must be even: pad the frames to multiples "
                "of 16 pixels"
            )
        layers = gathered(self, "predictor", self.dtype).layers
        x = constrain_spatial(latent.astype(self.dtype))
        for i, layer in enumerate(layers[:-1]):
            with jax.named_scope(f"mask_predictor/conv_{i}"):
                x = jax.nn.relu(layer(x))
        with jax.named_scope(f"mask_predictor/conv_{_LAYERS - 1}"):
            return layers[-1](x)[..., 0].astype(jnp.float32)


class PixelMaskPredictor(nnx.Module):
    """Low-resolution frames in [0, 1] -> one logit per patch of the target, in float32.

    Eq. 1 does not change when a picture is mirrored, nor does the logit: it is the mean over the
    picture and its three mirror images. (Measured on eight clips: F1 0.0026 higher than without.)
    """

    def __init__(
        self,
        config: PredictorConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
    ):
        self.energies = PixelEnergies(config.filters, rngs=rngs, param_dtype=param_dtype)
        on_grid = dataclasses.replace(
            config, latent_channels=pixel_energies.channels(config.filters)
        )
        self.on_grid = MaskPredictor(on_grid, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(
        self, frames: Float[Array, "b f h w 3"], weights: CellWeights | None = None
    ) -> Float[Array, "b t r q"]:
        """Logits of all patches, t = (f - 1) / 4 + 1.

        Args:
          frames: 4k + 1 of them.
          weights: ``pixel_energies.cell_weights`` of the frames' size and the target's; None: for a
            target 4 times as large, of r = h / 4 and q = w / 4.

        Raises:
          ValueError: another number of frames, or without ``weights`` sides that are no multiples
            of 4.
        """
        count, height, width = frames.shape[1:4]
        side = LOW_RES_PATCH_PIXELS
        if (count - 1) % PATCH_FRAMES or (weights is None and (height % side or width % side)):
            raise ValueError(
                f"{count} frames of {height} x {width} do not divide into patches: pad to 4k + 1 "
                f"frames and multiples of {side} pixels"
            )
        energies = gathered(self.energies, "energies", jnp.float32)
        with jax.named_scope("pixel_energies"):
            features = jnp.concatenate(energies(frames, weights))
        logits = jnp.split(self.on_grid(features), len(MIRROR_AXES))
        back = [jnp.flip(x, axes) for x, axes in zip(logits, MIRROR_AXES, strict=True)]
        return sum(back) / len(back)


def make_predictor(
    config: PredictorConfig,
    *,
    rngs: nnx.Rngs,
    dtype: DType = jnp.float32,
    param_dtype: DType = jnp.float32,
) -> MaskPredictor | PixelMaskPredictor:
    """The predictor that ``config`` describes."""
    cls = PixelMaskPredictor if config.space == "pixels" else MaskPredictor
    return cls(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
