"""The transformer discriminator of adversarial post-training (APT, arXiv 2501.08316, section 3.3).

The body is that of the diffusion transformer, with its weights to begin with. After some of its
layers a head pools the tokens: one learned query attends to the kept tokens of a sample, and an MLP
follows. The heads' results are concatenated along channels, normalised, and projected to one logit
a sample. The tokens at those depths are also the features of SeedVR2's feature matching loss
(arXiv 2506.05301, section 3.3).

Invariant: a sample's logit depends on its own kept tokens and text alone.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.models.discriminator.query_head import QueryHead
from skipsr_jax.models.dit import Body, DiTConfig
from skipsr_jax.models.dit.remat import policy
from skipsr_jax.models.layers.linear import linear
from skipsr_jax.models.layers.norms import RMSNorm
from skipsr_jax.models.params import Params
from skipsr_jax.parallel.fsdp import gathered
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.types import DType, Float


class Discriminator(nnx.Module):
    """Logits of samples for being real. See the module and ``__call__``."""

    def __init__(
        self,
        config: DiTConfig,
        depths: tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
        attention: str | None = None,
    ):
        """Args:
          config: of the transformer whose layers these are.
          depths: numbers of layers after which there is a head, rising. Layers beyond the last
            are not built.
          dtype, param_dtype, attention: as ``DiT``.

        Raises ValueError when there are no depths, or when they do not rise within the layers.
        """
        if not depths:
            raise ValueError("depths is (): a discriminator needs a head at one depth or more")
        self.body = Body(
            config,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            attention=attention,
            depths=depths,
        )
        self.dtype = dtype
        for depth in depths:
            head = QueryHead(config, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
            setattr(self, f"head_{depth}", head)
        joined = len(depths) * config.width
        self.norm = RMSNorm(joined, config.norm_eps, rngs=rngs, param_dtype=param_dtype)
        self.logit = linear(joined, 1, rngs=rngs, dtype=jnp.float32, param_dtype=param_dtype)

    def __call__(
        self,
        patches: Float[Array, "b n i"],
        text: Float[Array, "b m text_i"],
        timestep: Float[Array, "b k"],
        plan: TokenPlan,
    ) -> tuple[Float[Array, "b k"], list[Float[Array, "b n d"]]]:
        """A logit for each sample, above 0 for "real", and the tokens at each depth.

        Args:
          patches: stored tokens of [latent 16 | condition latent 16 | mask 1]; the latent is clean
            or generated, without noise.
          text, plan: as ``DiT``.
          timestep: per sample, 0..1000; it says nothing of the latent, but makes the body, trained
            on noise of all levels, attend to content of different scales.
        """
        features, _ = self.body.hidden(patches, text, timestep, plan)
        pooled = [
            self._pooled(f"head_{depth}", tokens, plan)
            for depth, tokens in zip(self.body.depths, features, strict=True)
        ]
        with jax.named_scope("logit"):
            normed = self.norm(jnp.concatenate(pooled, axis=-1))
            return self.logit(normed)[..., 0], features

    def _pooled(
        self, name: str, tokens: Float[Array, "b n d"], plan: TokenPlan
    ) -> Float[Array, "b k d"]:
        """What the head of this name reads. The body's ``remat`` says what is stored of it."""
        graphdef, state = nnx.split(getattr(self, name))

        def run(state: nnx.State, tokens: Array) -> Array:
            return gathered(nnx.merge(graphdef, state), name, self.dtype)(tokens, plan)

        with jax.named_scope(name):
            return jax.checkpoint(run, policy=policy(self.body.config.remat))(state, tokens)


def body_of(dit: Params, body: Params) -> Params:
    """The parameters of a discriminator's ``body``, taken from those of the transformer ``dit``.

    ``body``: parameters of the body, whose names and shapes say which layers are wanted.
    """

    def part(name: str, like: Params) -> Params:
        if name in dit:
            return jax.tree.map(jnp.copy, dit[name])
        stack, _, first = name.rpartition("_")
        start = int(first) - _first_layer(stack, dit)
        return jax.tree.map(lambda x, y: x[start : start + len(y)], dit[stack], like)

    return {name: part(name, like) for name, like in body.items()}


def _first_layer(stack: str, dit: Params) -> int:
    """The number of the first layer of a stack of the transformer."""
    if stack == "mm_blocks" or "mm_blocks" not in dit:
        return 0
    return len(jax.tree.leaves(dit["mm_blocks"])[0])
