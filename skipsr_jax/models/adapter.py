"""Adapters of a transformer (LoRA): which layers have one, and their parameters.

An adapter is a nested dict with the paths of the layers that it adapts:
``mm_blocks/vid/qkv/lora/lora_a`` (i, rank) and ``lora_b`` (rank, o), both behind the axis of the
stack of layers, as kernels are. ``joined`` puts it beside the parameters of the frozen transformer;
``models.merged_adapter`` puts it into its kernels.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from skipsr_jax.config import require, require_between, require_one_of
from skipsr_jax.errors import UserError
from skipsr_jax.kernels.quantized import FORMATS, PRECISIONS, UNQUANTIZED, Format
from skipsr_jax.models.layers.initial import Buffer
from skipsr_jax.models.layers.linear import Linear, StoredLinear
from skipsr_jax.models.layers.lora import KEY_WORDS, LoRA
from skipsr_jax.models.params import Params, flatten, to_dict, unflatten

LARGEST_RANK = 1024
_LORA, _A, _B = "/lora/", "/lora/lora_a", "/lora/lora_b"
_KEY, _RATE = "/lora/dropout_key", "/lora/dropout_rate"
_BLOCKS = "_blocks/"
"""In the paths of the layers whose kernels may be stored in 8 bits."""


@dataclasses.dataclass(frozen=True)
class Adapter:
    """The section ``adapter``: a low-rank adapter (LoRA) is trained, and the transformer is frozen.

    Attributes:
      rank: of the products that are added to kernels; 0: no adapter, all parameters are trained.
      targets: regular expressions; a dense layer is adapted where one of them is found in its path,
        such as mm_blocks/vid/qkv, shared_blocks/all/mlp/proj_in or vid_out.
      alpha: the products are multiplied by alpha / rank.
      dropout: fraction of an adapter's inputs that is zero in training.
      precision: what numbers the frozen kernels of the blocks are stored as: bf16 (the compute
        dtype, whatever that is), fp8 or int8. All products are in the compute dtype.
    """

    rank: int = 0
    targets: tuple[str, ...] = (_BLOCKS,)
    alpha: float = 16.0
    dropout: float = 0.0
    precision: str = UNQUANTIZED

    def __post_init__(self):
        require_between("rank", self.rank, 0, LARGEST_RANK)
        require(bool(self.targets), "targets", self.targets, "one regular expression or more")
        for target in self.targets:
            try:
                re.compile(target)
            except re.error as error:
                require(False, "targets", target, f"a regular expression ({error})")
        good = self.alpha > 0 and math.isfinite(self.alpha)
        require(good, "alpha", self.alpha, "above 0")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")
        require_one_of("precision", self.precision, PRECISIONS)

    @property
    def scale(self) -> float:
        """The factor on the product of an adapter's two kernels."""
        return self.alpha / self.rank

    @property
    def format(self) -> Format | None:
        """In which the frozen kernels are stored; None: in the compute dtype."""
        return FORMATS.get(self.precision)


def with_adapter(module: nnx.Module, adapter: Adapter) -> nnx.Module:
    """``module``, a transformer as shapes, with its kernels stored as ``adapter`` says and with
    adapters in its layers. It is changed in place.

    Raises UserError when ``targets`` name no layer.
    """
    layers = [
        ("/".join(map(str, (*path, name))), parent, name)
        for path, parent in nnx.iter_modules(module)
        for name, child in vars(parent).items()
        if isinstance(child, Linear)
    ]
    patterns = [re.compile(target) for target in adapter.targets]
    chosen = {path for path, _, _ in layers if any(x.search(path) for x in patterns)}
    if not chosen:
        raise UserError(
            f"config.adapter.targets {adapter.targets} match no dense layer of the transformer: "
            f"it has {', '.join(sorted(path for path, _, _ in layers))}"
        )
    for path, parent, name in layers:
        layer = getattr(parent, name)
        kernel = layer.kernel.get_value()
        if adapter.format is not None and _BLOCKS in path:
            layer = _stored(layer, adapter.format)
            setattr(parent, name, layer)
        if path in chosen:
            layer.lora = _lora(kernel, layer.dtype, adapter)
    return module


def _stored(layer: Linear, format: Format) -> StoredLinear:
    *stack, i, o = layer.kernel.get_value().shape
    values = jax.ShapeDtypeStruct((*stack, o, i), format.dtype)
    scale = jax.ShapeDtypeStruct((*stack, o), layer.kernel.get_value().dtype)
    return StoredLinear(nnx.Param(values), nnx.Param(scale), layer.bias, dtype=layer.dtype)


def _lora(kernel: jax.ShapeDtypeStruct, dtype: Any, adapter: Adapter) -> LoRA:
    *stack, i, o = kernel.shape

    def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*stack, *sizes), dtype)

    dropout = None
    if adapter.dropout:
        dropout = Buffer(shape(KEY_WORDS, dtype=jnp.uint32)), Buffer(shape())
    pair = nnx.Param(shape(i, adapter.rank)), nnx.Param(shape(adapter.rank, o))
    return LoRA(*pair, scale=adapter.scale, dtype=dtype, dropout=dropout)


def frozen_shapes(module: nnx.Module) -> Params:
    """The parameters of a transformer ``with_adapter`` as shapes, without those of the adapter."""
    flat = flatten(to_dict(module))
    return unflatten({path: leaf for path, leaf in flat.items() if _LORA not in path})


def adapter_shapes(module: nnx.Module) -> Params:
    """The trained parameters of the adapter as shapes."""
    flat = flatten(to_dict(module))
    return unflatten({path: leaf for path, leaf in flat.items() if path.endswith((_A, _B))})


def fresh_adapter(key: Array, module: nnx.Module) -> Params:
    """The adapter before training: ``lora_a`` U(+-1/sqrt(i)), ``lora_b`` zeros."""

    def drawn(number: int, path: str, leaf: jax.ShapeDtypeStruct) -> Array:
        if path.endswith(_B):
            return jnp.zeros(leaf.shape, leaf.dtype)
        bound = leaf.shape[-2] ** -0.5
        own = jax.random.fold_in(key, number)
        return jax.random.uniform(own, leaf.shape, leaf.dtype, -bound, bound)

    flat = flatten(adapter_shapes(module)).items()
    return unflatten({path: drawn(i, path, leaf) for i, (path, leaf) in enumerate(flat)})


def joined(frozen: Params, adapter: Params) -> Params:
    """The parameters of the adapted transformer, from those of the frozen one and the adapter's."""
    return unflatten(flatten(frozen) | flatten(adapter))


def with_dropout(adapter: Params, module: nnx.Module, rate: float, key: Array) -> Params:
    """The adapter with the buffers of dropout, where ``module`` has them: each layer's own key.

    ``rate``: 0 in evaluation.
    """
    flat = dict(flatten(adapter))
    for number, (path, leaf) in enumerate(flatten(to_dict(module)).items()):
        if path.endswith(_KEY):
            flat[path] = jax.random.bits(jax.random.fold_in(key, number), leaf.shape, leaf.dtype)
        elif path.endswith(_RATE):
            flat[path] = jnp.full(leaf.shape, rate, leaf.dtype)
    return unflatten(flat)


def adapted_layers(adapter: Params) -> list[str]:
    """The paths of the layers that an adapter belongs to."""
    return [path.removesuffix(_A) for path in flatten(adapter) if path.endswith(_A)]


def layer_pair(adapter: Params, layer: str) -> tuple[Any, Any]:
    """``lora_a`` and ``lora_b`` of a layer."""
    flat = flatten(adapter)
    return flat[layer + _A], flat[layer + _B]
