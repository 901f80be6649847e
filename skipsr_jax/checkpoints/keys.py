"""The key tables: official SeedVR parameter names <-> ours. One table per network, read both ways.

A row is (official name, our path, the official axes in our order). ``{...}`` stands for one of a
few words; a path under ``mm_blocks`` or ``shared_blocks`` is an array with all layers of that
stack on its first axis, one official tensor each. `entries_of` writes a table out for a config: one
entry for each official tensor. Invariant: the table covers every parameter of a model, and no two
parameters share an official name.
"""

import functools
import re
from dataclasses import dataclass

import numpy as np

from skipsr_jax.checkpoints.lazy import LazyTensor
from skipsr_jax.models.dit import DiT, DiTConfig
from skipsr_jax.models.params import Params, abstract, flatten, shape_mismatches, to_dict
from skipsr_jax.models.vae import VAE, VAEConfig

AS_IS = None
LINEAR = (1, 0)  # (out, in) -> (in, out)
CONV = (2, 3, 4, 1, 0)  # (out, in, f, h, w) -> (f, h, w, in, out)

Row = tuple[str, str, tuple[int, ...] | None]

DIT_TABLE: tuple[Row, ...] = (
    ("vid_in.proj.weight", "vid_in/kernel", LINEAR),
    ("vid_in.proj.bias", "vid_in/bias", AS_IS),
    ("txt_in.weight", "txt_in/kernel", LINEAR),
    ("txt_in.bias", "txt_in/bias", AS_IS),
    ("emb_in.{dense}.weight", "emb_in/{dense}/kernel", LINEAR),
    ("emb_in.{dense}.bias", "emb_in/{dense}/bias", AS_IS),
    ("blocks.{layer}.attn.proj_qkv.{branch}.weight", "{stack}/{branch}/qkv/kernel", LINEAR),
    ("blocks.{layer}.attn.proj_out.{branch}.weight", "{stack}/{branch}/proj_out/kernel", LINEAR),
    ("blocks.{layer}.attn.proj_out.{branch}.bias", "{stack}/{branch}/proj_out/bias", AS_IS),
    ("blocks.{layer}.attn.norm_q.{branch}.weight", "{stack}/{branch}/norm_q/scale", AS_IS),
    ("blocks.{layer}.attn.norm_k.{branch}.weight", "{stack}/{branch}/norm_k/scale", AS_IS),
    ("blocks.{layer}.attn.rope.rope.freqs", "{stack}/rope_freqs", AS_IS),
    ("blocks.{layer}.mlp.{branch}.{dense}.weight", "{stack}/{branch}/mlp/{dense}/kernel", LINEAR),
    ("blocks.{layer}.mlp.{branch}.{dense}.bias", "{stack}/{branch}/mlp/{dense}/bias", AS_IS),
    ("blocks.{layer}.ada.{branch}.{vector}", "{stack}/{branch}/{vector}", AS_IS),
    ("vid_out_norm.weight", "vid_out_norm/scale", AS_IS),
    ("vid_out_ada.out_shift", "vid_out_ada/shift", AS_IS),
    ("vid_out_ada.out_scale", "vid_out_ada/scale", AS_IS),
    ("vid_out.proj.weight", "vid_out/kernel", LINEAR),
    ("vid_out.proj.bias", "vid_out/bias", AS_IS),
)

# Our autoencoder has the official structure; only the last name and the layout differ.
VAE_TABLE: tuple[Row, ...] = (
    ("{module}.{norm}.weight", "{module}/{norm}/scale", AS_IS),
    ("{module}.{projection}.weight", "{module}/{projection}/kernel", LINEAR),
    ("{module}.weight", "{module}/kernel", CONV),
    ("{module}.bias", "{module}/bias", AS_IS),
)

_WORDS = {
    "stack": "mm_blocks|shared_blocks",
    "branch": "vid|txt|all",
    "dense": "proj_in|proj_hid|proj_out|proj_in_gate",
    "vector": "(?:attn|mlp)_(?:shift|scale|gate)",
    "norm": "norm1|norm2|group_norm|conv_norm_out",
    "projection": "to_q|to_k|to_v|to_out/0",
    "module": ".+",
}

# What checkpoints of older versions call the autoencoder's attention.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# The official last block of the 3B kind has these for video only, unless it shares weights.
_VIDEO_ONLY_AT_LAST = re.compile("mm_blocks/txt/(mlp/.*|(attn|mlp)_(shift|scale|gate))")


@dataclass(frozen=True)
class Entry:
    """One official tensor, and the array or the layer of an array that holds its numbers here.

    Attributes:
      official: the tensor's name, or None for a parameter that the official model lacks; it is
        zero.
      path: the path of our array.
      layer: the index into the array's first axis, or None when its layers are not stacked.
      axes: the axes of the official tensor in our order, or None when the orders are equal.
      shape: the shape of the official tensor.
    """

    official: str | None
    path: str
    layer: int | None
    axes: tuple[int, ...] | None
    shape: tuple[int, ...]

    def to_ours(self, array: np.ndarray) -> np.ndarray:
        """The official tensor in our layout (a view)."""
        return array if self.axes is None else array.transpose(self.axes)

    def to_official(self, array: np.ndarray) -> np.ndarray:
        """Our array of one layer in the official layout (a view)."""
        return array if self.axes is None else array.transpose(np.argsort(self.axes))


def _pattern(ours: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", ours)
    texts = (
        f"(?P<{part}>{_WORDS[part]})" if odd % 2 else re.escape(part)
        for odd, part in enumerate(parts)
    )
    return re.compile("".join(texts))


def _entries(params: Params, table: tuple[Row, ...], first: dict[str, int]) -> list[Entry]:
    """Entries of all ``params``; ``first`` is the number of the first layer of each stack."""
    patterns = [(official, _pattern(ours), axes) for official, ours, axes in table]
    entries = []
    for path, leaf in flatten(params).items():
        found = (
            (official, match, axes)
            for official, pattern, axes in patterns
            if (match := pattern.fullmatch(path))
        )
        row = next(found, None)
        if row is None:
            raise ValueError(f"no row of the key table covers our parameter {path}")
        official, match, axes = row
        words = {name: word.replace("/", ".") for name, word in match.groupdict().items()}
        stack = words.get("stack")
        shape = tuple(leaf.shape) if stack is None else tuple(leaf.shape[1:])
        if axes is not None:
            shape = tuple(shape[i] for i in np.argsort(axes))
        for layer in [None] if stack is None else range(leaf.shape[0]):
            number = None if layer is None else first[stack] + layer
            name = official.format(layer=number, **words)
            entries.append(Entry(name, path, layer, axes, shape))
    return entries


def _dit_entries(params: Params, *, video_only_at_last: bool) -> list[Entry]:
    """The entries of a DiT with these (real or abstract) parameters.

    ``video_only_at_last``: the model is of the 3B kind. When its last block has own weights for
    text, the official block lacks those that have no effect on the result; ours has zeros there.
    """
    stacks = {name: params[name]["rope_freqs"].shape[0] for name in params if "_blocks" in name}
    first = {"mm_blocks": 0, "shared_blocks": stacks.get("mm_blocks", 0)}
    entries = _entries(params, DIT_TABLE, first)
    if not video_only_at_last or "shared_blocks" in stacks:
        return entries
    last = stacks["mm_blocks"] - 1
    return [
        Entry(None, e.path, e.layer, e.axes, e.shape)
        if e.layer == last and _VIDEO_ONLY_AT_LAST.fullmatch(e.path)
        else e
        for e in entries
    ]


def abstract_params(config: DiTConfig | VAEConfig) -> Params:
    """The shapes of all parameters of the network; allocates nothing."""
    network = DiT if isinstance(config, DiTConfig) else VAE
    return to_dict(abstract(lambda rngs: network(config, rngs=rngs)))


@functools.lru_cache(maxsize=8)
def entries_of(config: DiTConfig | VAEConfig) -> list[Entry]:
    """The entries of the network, in the order of our parameters.

    All callers get the same list: do not change it.
    """
    params = abstract_params(config)
    if isinstance(config, DiTConfig):
        return _dit_entries(params, video_only_at_last=config.plain_text_at_last)
    return _entries(params, VAE_TABLE, {})


def renamed(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """An autoencoder's tensors with the attention's old names replaced by the current ones."""

    def current(name: str) -> str:
        parts = name.split(".")
        return ".".join(_OLD_ATTENTION.get(part, part) for part in parts)

    return {current(name): tensor for name, tensor in tensors.items()}


def mismatches(entries: list[Entry], tensors: dict[str, LazyTensor]) -> list[str]:
    """Every way in which ``tensors`` are not what ``entries`` ask for, one line each."""
    named = {entry.official: entry for entry in entries if entry.official is not None}
    return shape_mismatches(named, tensors)
