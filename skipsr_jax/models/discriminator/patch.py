"""A small discriminator of decoded frames, conditioned on latents, with one logit a patch.

PatchGAN (Isola et al. 2017, arXiv 1611.07004): 2-D convolutions give every block of 8 x 8 pixels a
logit of its own. The input is the frame and its difference from the frame before, so that flicker
and trails can be told from motion. The latents, which have one vector for such a block, join the
features at that resolution: a picture has to be sharp and also that of its latent.

Invariant: a logit depends on its own frame, the frame before and one latent frame.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.geometry import SPACE_FACTOR, TIME_FACTOR
from skipsr_jax.models.layers.causal_conv import CausalConv3d
from skipsr_jax.parallel.fsdp import gathered
from skipsr_jax.types import DType, Float

_HALVINGS = SPACE_FACTOR.bit_length() - 1
_SLOPE = 0.2  # of the leaky ReLU, as in PatchGAN


class PatchDiscriminator(nnx.Module):
    """Logits of blocks of pixels for being of a true clip. See the module and ``__call__``."""

    def __init__(
        self,
        width: int,
        latent_channels: int,
        *,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
    ):
        """Args: ``width``: channels at half resolution; every halving doubles them."""

        def conv(
            features_in: int, features_out: int, stride: int, dtype: DType = dtype
        ) -> CausalConv3d:
            return CausalConv3d(
                features_in, features_out, (1, 3, 3), strides=(1, stride, stride), rngs=rngs,
                dtype=dtype, param_dtype=param_dtype,
            )  # fmt: skip

        widths = [6, *(width << level for level in range(_HALVINGS))]
        self.down = nnx.List([conv(*pair, stride=2) for pair in itertools.pairwise(widths)])
        self.joint = conv(widths[-1] + latent_channels, widths[-1], 1)
        # Pairs of logits differ by 0.1, and both may drift together to where bfloat16 has steps
        # of that size.
        self.logit = conv(widths[-1], 1, 1, jnp.float32)
        self.dtype = dtype

    def __call__(
        self, frames: Float[Array, "b f h w 3"], latents: Float[Array, "b t h8 w8 c"]
    ) -> Float[Array, "b f h8 w8"]:
        """A logit for each block of 8 x 8 pixels of each frame, above 0 for "real", in float32.

        ``frames`` are in [-1, 1], f = 4 t - 3; ``latents`` are scaled, as the transformer has them.
        """
        layers = gathered(self, "patch_discriminator", self.dtype)
        change = jnp.diff(frames, axis=1, prepend=frames[:, :1])
        x = jnp.concatenate([frames, change], axis=-1)
        for layer in layers.down:
            x = jax.nn.leaky_relu(layer(x)[0], _SLOPE)
        of_frames = jnp.repeat(latents, TIME_FACTOR, axis=1)[:, TIME_FACTOR - 1 :]
        x = jnp.concatenate([x, of_frames.astype(x.dtype)], axis=-1)
        x = jax.nn.leaky_relu(layers.joint(x)[0], _SLOPE)
        return layers.logit(x)[0][..., 0]
