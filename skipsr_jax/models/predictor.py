"""The mask predictor: which patches of a clip need the transformer, from the latent alone.

Paper section 4.1: four layers of 3D convolution with ReLU between them on the low-quality latent;
the first has stride (1, 2, 2), so that one logit stands for one patch of 1 x 2 x 2 latents. A
positive logit means "run the transformer here".

Padding: time repeats the first and the last frame, so that a single image looks like a still video;
space is zero padded. The predictor looks both ways in time: it runs once, on the whole latent.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from skipsr_jax.nn.causal_conv import conv3d
from skipsr_jax.nn.fsdp import gathered
from skipsr_jax.parallel.space import constrain_space
from skipsr_jax.types import Array, Float

_LAYERS = 4
_PATCH = 2


@dataclasses.dataclass(frozen=True)
class PredictorConfig:
    """``width``: channels of the three hidden layers."""

    width: int = 648
    latent_channels: int = 16

    def __post_init__(self):
        if self.width < 1 or self.latent_channels < 1:
            raise ValueError(
                f"width {self.width} and latent_channels {self.latent_channels} must be at least 1"
            )


PAPER = PredictorConfig()  # 22,974,193 parameters; the paper says 23 M
TINY = PredictorConfig(width=48)


class _Conv3d(nnx.Module):
    """3 x 3 x 3 convolution that sees one frame before and one after; outermost frames repeated."""

    def __init__(
        self, features_in: int, features_out: int, stride: int, init, *, rngs, param_dtype
    ):
        shape = (3, 3, 3, features_in, features_out)
        self.kernel = nnx.Param(init(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(jnp.zeros((features_out,), param_dtype))
        self.stride = stride

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t v u o"]:
        x = jnp.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
        y = conv3d(x, self.kernel[...].astype(x.dtype), (1, self.stride, self.stride))
        return y + self.bias[...].astype(x.dtype)


class MaskPredictor(nnx.Module):
    """Latents (scaled, as the transformer sees them) -> one logit per patch, in float32."""

    def __init__(
        self,
        config: PredictorConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
    ):
        he = jax.nn.initializers.he_normal(in_axis=(0, 1, 2, 3), out_axis=4)
        lecun = jax.nn.initializers.lecun_normal(in_axis=(0, 1, 2, 3), out_axis=4)
        widths = (config.latent_channels, *[config.width] * (_LAYERS - 1), 1)
        self.layers = nnx.List(
            [
                _Conv3d(
                    widths[i],
                    widths[i + 1],
                    _PATCH if i == 0 else 1,
                    he if i < _LAYERS - 1 else lecun,  # he: half the numbers pass a ReLU
                    rngs=rngs,
                    param_dtype=param_dtype,
                )
                for i in range(_LAYERS)
            ]
        )
        self.dtype = dtype

    def __call__(self, latent: Float[Array, "b t h w c"]) -> Float[Array, "b t v u"]:
        """Logits (b, t, h / 2, w / 2). Raises ValueError when h or w is odd."""
        height, width = latent.shape[2:4]
        if height % _PATCH or width % _PATCH:
            raise ValueError(
                f"the latent is {height} x {width}; both must be even: pad the frames to multiples "
                "of 16 pixels"
            )
        layers = gathered(self, "predictor", self.dtype).layers
        x = constrain_space(latent.astype(self.dtype))
        for layer in layers[:-1]:
            x = jax.nn.relu(layer(x))
        return layers[-1](x)[..., 0].astype(jnp.float32)
