"""The SeedVR / SeedVR2 diffusion transformer, run on kept tokens only (SkipSR section 4.2).

One network (arXiv 2501.01320, 2506.05301), whose variants are values of ``DiTConfig``: SeedVR2-3B
(shared late layers, SwiGLU, positions counted in windows, modulated output) and SeedVR-7B (separate
weights, GELU, positions spread over windows). Blocks of equal shape are stacked and scanned; even
layers attend in regular windows, odd ones in shifted windows. ``Body`` is all but the output layer.

Invariant: a compiled forward depends on (bucket, samples per pack, text slots, model) only.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.geometry import PATCH_AREA
from skipsr_jax.kernels.quantized import Format
from skipsr_jax.models.dit.block import Block
from skipsr_jax.models.dit.config import DiTConfig
from skipsr_jax.models.dit.modulation import ATTENTION, TimeEmbedding, modulate, per_token
from skipsr_jax.models.dit.remat import policy
from skipsr_jax.models.layers.initial import ShapesOnly, around, drawn, stacked_shapes
from skipsr_jax.models.layers.linear import Linear, linear
from skipsr_jax.models.layers.norms import RMSNorm
from skipsr_jax.parallel.activations import constrain_text, constrain_tokens
from skipsr_jax.parallel.fsdp import gathered
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.types import DType, Float


class Body(nnx.Module):
    """The transformer up to its residual stream. See ``hidden``."""

    def __init__(
        self,
        config: DiTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
        attention: str | None = None,
        depths: tuple[int, ...] = (),
        format: Format | None = None,
    ):
        """Args:
        dtype: of matrix products and of the residual stream. param_dtype: of stored parameters.
        attention: implementation of the attention kernel; None picks by device and logs it.
        format: of the blocks' quantised products; None: products are in ``dtype``.
        depths: numbers of layers whose results ``hidden`` returns, rising; the last of them is the
          last that is built. Stacks are divided there, so that no step has to slice or to collect
          layers. (): all layers, in at most two stacks.

        Raises ValueError when depths do not rise from 1 or more to at most ``layers``.
        """
        if list(depths) != sorted(set(depths)) or not all(1 <= x <= config.layers for x in depths):
            raise ValueError(f"depths {depths} must rise from 1 or more to at most {config.layers}")
        self.config, self.dtype, self.attention = config, dtype, attention
        self.format = format
        d = config.width

        def layer(in_features: int, out_features: int) -> Linear:
            return linear(
                in_features, out_features, rngs=rngs, dtype=dtype, param_dtype=param_dtype
            )

        def stack(blocks: int, shared: bool) -> Block:
            def make(rngs: nnx.Rngs) -> Block:
                kinds = {"dtype": dtype, "param_dtype": param_dtype, "format": format}
                return Block(config, shared=shared, rngs=rngs, **kinds)

            if isinstance(rngs, ShapesOnly):
                return stacked_shapes(make(rngs), blocks)
            return nnx.split_rngs(splits=blocks)(nnx.vmap(make))(rngs)

        self.vid_in = layer(PATCH_AREA * config.in_channels, d)
        if config.text_width != d:  # text of the model's width enters as it is
            self.txt_in = layer(config.text_width, d)
        self.emb_in = TimeEmbedding(d, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.depths = depths or (config.layers,)
        self.stacks = tuple(_stack_bounds(config, depths))
        for name, first, end in self.stacks:
            setattr(self, name, stack(end - first, shared=first >= config.mm_layers))

    def hidden(
        self,
        patches: Float[Array, "b n i"],
        text: Float[Array, "b m text_i"],
        timestep: Float[Array, "b k"],
        plan: TokenPlan,
    ) -> tuple[list[Float[Array, "b n d"]], Float[Array, "b k e"]]:
        """The stored tokens after each of ``depths`` layers, and the embedding of the timestep.

        Args: as ``DiT``. Without ``depths``: the tokens after the last layer.
        """
        with jax.named_scope("embed"):
            vid_in = gathered(self.vid_in, "vid_in", self.dtype)
            vid = constrain_tokens(vid_in(constrain_tokens(patches)))
            txt = self.txt_in(text) if self.config.text_width != self.config.width else text
            txt = constrain_text(txt.astype(self.dtype))
            embedding = constrain_text(self.emb_in(timestep))
        hidden_states = []
        for name, first, end in self.stacks:
            with jax.named_scope(name):
                vid, txt = self.run_stack(name, first, vid, txt, embedding, plan)
            if end in self.depths:
                hidden_states.append(vid)
        return hidden_states, embedding

    def run_stack(
        self,
        name: str,
        first: int,
        vid: Float[Array, "b n d"],
        txt: Float[Array, "b m d"],
        embedding: Float[Array, "b k e"],
        plan: TokenPlan,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"]]:
        """Video and text after the stack of blocks ``name``, whose first one is layer ``first``."""
        graphdef, stacked = nnx.split(getattr(self, name))
        count = jax.tree.leaves(stacked)[0].shape[0]
        layers = first + jnp.arange(count)
        last = self.config.layers - 1
        modulate_text = (layers != last) | (not self.config.plain_text_at_last)

        def run(carry, layer, shifted):
            state, text_modulated = layer
            block = gathered(nnx.merge(graphdef, state), "block", self.dtype)
            return block(*carry, embedding, plan, shifted, text_modulated, self.attention)

        stored = policy(self.config.remat)
        blocks = stacked, modulate_text
        if plan.shard_layouts is None:
            return _scan_layers(run, (vid, txt), blocks, layers % 2, stored)
        return _scan_pairs(run, (vid, txt), blocks, first, stored)


def _stack_bounds(config: DiTConfig, depths: tuple[int, ...]) -> list[tuple[str, int, int]]:
    """(name, first layer, layer after the last) of each stack, divided after each of ``depths``."""
    stacks = []
    for name, start, stop in (
        ("mm_blocks", 0, config.mm_layers),
        ("shared_blocks", config.mm_layers, config.layers),
    ):
        bounds = sorted({start, stop, *(depth for depth in depths if start < depth < stop)})
        for first, end in itertools.pairwise(bounds):
            stacks.append((f"{name}_{first}" if depths else name, first, end))
    return [stack for stack in stacks if not depths or stack[1] < max(depths)]


Run = Callable[[Any, Any, Any], Any]
"""(carry, a block's parameters and flags, its partition) -> carry."""


def _scan_layers(run: Run, carry: Any, blocks: Any, shifted: Array, policy: Any) -> Any:
    """The carry after all blocks, where both partitions run the same program: one a step."""
    body = jax.checkpoint(lambda carry, block: (run(carry, *block), None), policy=policy)
    return jax.lax.scan(body, carry, (blocks, shifted))[0]


def _scan_pairs(run: Run, carry: Any, blocks: Any, first: int, policy: Any) -> Any:
    """The carry after all blocks, where each partition has its own program: two blocks a step.

    ``first``: number of the first layer, whose partition is regular where it is even.
    """
    runs = [
        jax.checkpoint(functools.partial(run, shifted=(first + i) % 2), policy=policy)
        for i in range(2)
    ]

    def step(carry, pair):
        for i, run_one in enumerate(runs):
            carry = run_one(carry, jax.tree.map(lambda x, i=i: x[i], pair))
        return carry, None

    count = jax.tree.leaves(blocks)[0].shape[0]
    even = count - count % 2
    pairs = jax.tree.map(lambda x: x[:even].reshape(-1, 2, *x.shape[1:]), blocks)
    carry, _ = jax.lax.scan(step, carry, pairs)
    if count % 2:
        carry = runs[0](carry, jax.tree.map(lambda x: x[-1], blocks))
    return carry


class DiT(Body):
    """Velocity of kept tokens. See the module and ``__call__``."""

    def __init__(
        self,
        config: DiTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DType = jnp.float32,
        param_dtype: DType = jnp.float32,
        attention: str | None = None,
        format: Format | None = None,
    ):
        """Args: as ``Body``, all layers."""
        super().__init__(
            config,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            attention=attention,
            format=format,
        )
        d = config.width
        if config.output_modulation:
            self.vid_out_norm = RMSNorm(d, config.norm_eps, rngs=rngs, param_dtype=param_dtype)
            self.vid_out_ada = OutputModulation(d, rngs=rngs, param_dtype=param_dtype)
        self.vid_out = linear(
            d, PATCH_AREA * config.out_channels, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )

    def __call__(
        self,
        patches: Float[Array, "b n i"],
        text: Float[Array, "b m text_i"],
        timestep: Float[Array, "b k"],
        plan: TokenPlan,
    ) -> Float[Array, "b n o"]:
        """The velocity v = x_T - x_0 of every stored token; padding holds arbitrary numbers.

        Args:
          patches: stored tokens of [noisy latent 16 | condition latent 16 | mask 1], i = 132.
          text: embeddings of the texts of the k samples of a pack, m = k * l.
          timestep: per sample, 0..1000.
          plan: built from the keep masks of the same samples.
        """
        hidden_states, embedding = self.hidden(patches, text, timestep, plan)
        with jax.named_scope("out"):
            return self._output(hidden_states[-1], embedding, plan)

    def _output(
        self, vid: Float[Array, "b n d"], embedding: Float[Array, "b k e"], plan: TokenPlan
    ) -> Float[Array, "b n o"]:
        if self.config.output_modulation:
            m = per_token(embedding, plan.sample, ATTENTION)
            vid = modulate(
                self.vid_out_norm(vid), m, self.vid_out_ada.shift, self.vid_out_ada.scale
            )
        vid_out = gathered(self.vid_out, "vid_out", self.dtype)
        return constrain_tokens(vid_out(vid).astype(jnp.float32))


class OutputModulation(nnx.Module):
    """The learned shift and scale before the output layer."""

    def __init__(self, width: int, *, rngs: nnx.Rngs, param_dtype: DType):
        self.shift = drawn(around(0.0), rngs, (width,), param_dtype)
        self.scale = drawn(around(1.0), rngs, (width,), param_dtype)
