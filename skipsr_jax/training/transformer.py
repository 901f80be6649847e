"""The transformer that a stage trains or reads: as shapes, with fresh parameters or stored ones."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from skipsr_jax.checkpoints import store
from skipsr_jax.config import from_json
from skipsr_jax.errors import UserError
from skipsr_jax.geometry import PATCH_AREA
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import Params, abstract, bind, flatten, to_dict, unflatten
from skipsr_jax.types import DType

TEXTS = frozenset({"text/positive", "text/negative"})
"""Paths of the text embeddings among the parameters of a stage that trains a transformer."""


def abstract_dit(config: DiTConfig, dtype: DType) -> DiT:
    """The transformer as shapes, computing in ``dtype``."""
    return abstract(lambda rngs: DiT(config, rngs=rngs, dtype=dtype))


def bind_trained(module: DiT, params: Params) -> DiT:
    """The transformer with its parameters, whose kernels are as ``cast_kernels`` makes them."""
    return bind(module, cast_kernels(params, module.dtype))


def cast_kernels(params: Params, dtype: DType) -> Params:
    """The parameters with the kernels of a body in ``dtype``, in which its products are.

    Every product casts its kernel, but a float32 one is read again for that in each pass, and its
    gradient is stored in float32, though it is computed in the compute dtype. Where a kernel
    serves video and text, the sum of both gradients is rounded to the compute dtype as well.
    """
    return unflatten(
        {
            path: x.astype(dtype) if path.endswith("/kernel") else x
            for path, x in flatten(params).items()
        }
    )


def fresh_params(key: Array, config: DiTConfig, text_lengths: tuple[int, int]) -> Params:
    """Random parameters ``{"dit": ..., "text": {"positive", "negative"}}``.

    ``text_lengths``: tokens of the two texts. A transformer with a plain output layer begins as
    ``start_from_condition`` says.
    """
    dit, positive, negative = jax.random.split(key, 3)
    text = {
        "positive": jax.random.normal(positive, (text_lengths[0], config.text_width)),
        "negative": jax.random.normal(negative, (text_lengths[1], config.text_width)),
    }
    params = to_dict(DiT(config, rngs=nnx.Rngs(dit)))
    if not config.output_modulation:
        params = start_from_condition(params, config)
    return {"dit": params, "text": text}


def load_transformer(path: str, dtype: DType) -> tuple[DiT, Params]:
    """The transformer of a workdir or model checkpoint as shapes, computing in ``dtype``, and
    ``{"dit": ..., "text": ...}`` in float32.

    Raises UserError when the path cannot be read or holds no transformer or no texts.
    """
    stored, branch = store.load_config(path), store.best_branch(path)
    if "dit" not in stored:
        raise UserError(f"{path}: holds no transformer")
    module = abstract_dit(from_json(DiTConfig, stored["dit"], path), dtype)
    texts = store.stored_shapes(path, branch=branch).get("text", {})
    wanted = {"dit": to_dict(module), "text": texts}
    if texts.keys() != {"positive", "negative"}:
        raise UserError(f"{path}: holds no text embeddings, which the transformer needs")
    return module, store.restore_params(path, wanted, dtype=jnp.float32, branch=branch)


def start_from_condition(params: Params, config: DiTConfig) -> Params:
    """The transformer's parameters, changed so that its one-step result is the condition.

    From random parameters a one-step model first has to learn to copy the noise that it is to
    subtract, exactly, through all layers. Here the first channels of the residual stream carry
    x_t - condition from the input layer to the output layer, and all gates start closed, as in
    adaLN-Zero (Peebles & Xie 2023, section 3.2). Needs a plain output layer and width >= 4 * 16.
    """
    channels, outputs = config.out_channels, PATCH_AREA * config.out_channels
    carried = np.zeros((PATCH_AREA, config.in_channels, outputs), np.float32)
    for pixel in range(PATCH_AREA):
        for c in range(channels):
            carried[pixel, c, pixel * channels + c] = 1.0
            carried[pixel, channels + c, pixel * channels + c] = -1.0
    carried = carried.reshape(-1, outputs)

    def changed(path: str, x: Array) -> Array:
        if path == "vid_in/kernel":
            return x.at[:, :outputs].set(carried)
        if path == "vid_in/bias":
            return x.at[:outputs].set(0.0)
        if path == "vid_out/kernel":
            return jnp.eye(config.width, outputs, dtype=x.dtype)
        if path.startswith("emb_in/proj_out/"):
            return x.at[..., 2::3].set(0.0)  # (shift, scale, gate) of each channel and layer
        closed = path == "vid_out/bias" or path.endswith(("attn_gate", "mlp_gate"))
        return jnp.zeros_like(x) if closed else x

    return unflatten({path: changed(path, x) for path, x in flatten(params).items()})
