"""One transformer block of SeedVR on kept tokens: windowed joint attention, then an MLP.

Video and text are two branches (``models.dit.branch``) that meet in attention only
(``models.dit.attention``). A block owns either one set of weights per branch or one set for both.

Invariant: everything but attention is per token, so a token that is not stored costs nothing.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.kernels.quantized import Format
from skipsr_jax.models.dit.attention import Angles, joint_attention, of_partition
from skipsr_jax.models.dit.branch import Branch
from skipsr_jax.models.dit.config import DiTConfig
from skipsr_jax.models.dit.modulation import ATTENTION, FEED_FORWARD, per_token
from skipsr_jax.models.dit.rope import (
    language_frequencies,
    pixel_angles,
    pixel_frequencies,
    text_angles,
    window_angles,
)
from skipsr_jax.models.layers.initial import buffer
from skipsr_jax.parallel.activations import constrain_text, constrain_tokens
from skipsr_jax.tokens.plan import TokenPlan
from skipsr_jax.types import Bool, DType, Float, Int


class Block(nnx.Module):
    """See the module. A shared block has one ``Branch``, ``all``; others have ``vid``, ``txt``."""

    def __init__(
        self,
        config: DiTConfig,
        *,
        shared: bool,
        rngs: nnx.Rngs,
        dtype: DType,
        param_dtype: DType,
        format: Format | None = None,
    ):
        """Args:
        dtype: of computations. param_dtype: of stored parameters.
        format: of quantised products; None: products are in ``dtype``.
        """
        kinds = {"dtype": dtype, "param_dtype": param_dtype, "format": format}
        names = ("all",) if shared else ("vid", "txt")
        for name in names:
            setattr(self, name, Branch(config, rngs=rngs, **kinds))
        frequencies = pixel_frequencies if config.pixel_rope else language_frequencies
        self.rope_freqs = buffer(frequencies(config.rope_dim), rngs)
        self.shared = shared
        self.pixel_rope = config.pixel_rope

    def __call__(
        self,
        vid: Float[Array, "b n d"],
        txt: Float[Array, "b m d"],
        embedding: Float[Array, "b k e"],
        plan: TokenPlan,
        shifted: Int[Array, ""] | int,
        modulate_text: Bool[Array, ""],
        attention: str | None,
    ) -> tuple[Float[Array, "b n d"], Float[Array, "b m d"]]:
        """Video and text after the block.

        Args:
          vid: stored tokens. txt: the text of all samples, ``l`` slots each.
          embedding: of the timestep, per sample.
          plan: who attends to whom. shifted: which of its partitions, 0 or 1; a Python integer
            where the plan has shard layouts.
          modulate_text: False in the last block of SeedVR2-3B, which norms its text but neither
            shifts nor scales it before attention.
          attention: implementation of the attention kernel, None to pick.
        """
        video, text = branches = self._branches()
        samples = plan.text_length.shape[1]
        text_sample = jnp.repeat(jnp.arange(samples), txt.shape[1] // samples)
        text_sample = jnp.broadcast_to(text_sample, txt.shape[:2])

        with jax.named_scope("modulation"):
            vid_m = per_token(embedding, plan.sample, ATTENTION)
            txt_m = per_token(embedding, text_sample, ATTENTION)
            vid_in = video.attention_input(vid, vid_m, jnp.asarray(True))
            txt_in = text.attention_input(txt, txt_m, modulate_text)
        with jax.named_scope("rope"):
            angles = self._angles(plan, shifted, txt.shape[1])
        vid_out, txt_out = joint_attention(
            vid_in, txt_in, branches, angles, plan, shifted, implementation=attention
        )
        with jax.named_scope("proj_out"):
            vid = video.add_attention(vid, vid_out, vid_m)
            txt = text.add_attention(txt, txt_out, txt_m)
        with jax.named_scope("mlp"):
            vid = video.add_mlp(vid, per_token(embedding, plan.sample, FEED_FORWARD))
            txt = text.add_mlp(txt, per_token(embedding, text_sample, FEED_FORWARD))
        return constrain_tokens(vid), constrain_text(txt)

    def _branches(self) -> tuple[Branch, Branch]:
        """The weights of video and of text.

        Where they are the same, XLA would make one product of both kinds of token, and copy all of
        the video's rows to put the text's behind them. Barriers keep the products separate, one for
        each array: one for all would make the first product wait for every array to be gathered.
        """
        if not self.shared:
            return self.vid, self.txt
        graphdef, state = nnx.split(self.all)
        text_state = jax.tree.map(jax.lax.optimization_barrier, state)
        return self.all, nnx.merge(graphdef, text_state)

    def _angles(self, plan: TokenPlan, shifted: Int[Array, ""] | int, text_tokens: int) -> Angles:
        """The rotary angles of stored tokens in one partition, and of text tokens."""
        freqs, position = self.rope_freqs[...], of_partition(plan.position, shifted)
        if self.pixel_rope:
            return Angles(pixel_angles(position, of_partition(plan.extent, shifted), freqs), None)
        length = jnp.take_along_axis(plan.text_length, plan.sample, axis=1)
        samples = plan.text_length.shape[1]
        text = jnp.tile(text_angles(text_tokens // samples, freqs), (samples, 1))
        return Angles(window_angles(position, length, freqs), text[None])
