"""Conversion between modules and plain parameter dicts.

A model is described once, as a module. Its parameters are passed around as a nested dict with
string keys, which is what checkpoints, optimizers and sharding rules work on. Invariant:
``to_dict(bind(m, d)) == d``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from skipsr_jax.models.layers.initial import ShapesOnly

Params = dict[str, Any]


def abstract(build: Callable[[nnx.Rngs], nnx.Module]) -> nnx.Module:
    """The module that ``build(rngs)`` makes, with shapes instead of arrays: it takes no memory."""
    return build(ShapesOnly())


def _with_string_keys(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {str(key): _with_string_keys(value) for key, value in tree.items()}
    return tree


def to_dict(module: nnx.Module) -> Params:
    """All parameters and buffers of a (real or abstract) module, as a nested string-keyed dict."""
    return _with_string_keys(nnx.to_pure_dict(nnx.state(module)))


def bind(module: nnx.Module, params: Params) -> nnx.Module:
    """The module with its parameters taken from ``params`` (arrays, tracers or shapes).

    Raises ValueError when keys are missing, unexpected or of another shape, and names them.
    """
    wrong = shape_mismatches(flatten(to_dict(module)), flatten(params))
    if wrong:
        some = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise ValueError(f"{type(module).__name__}: {len(wrong)} parameters do not fit: {some}")
    graphdef, state = nnx.split(module)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graphdef, state)


def shape_mismatches(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for each array that is missing, unexpected or of another shape; empty if all fit.

    Both map a name to anything with a ``shape``; the lines are in the order of the mappings.
    """
    missing = [f"missing {k} {_shape(x)}" for k, x in expected.items() if k not in found]
    unexpected = [f"unexpected {k} {_shape(x)}" for k, x in found.items() if k not in expected]
    different = [
        f"{k} has shape {_shape(found[k])}, expected {_shape(x)}"
        for k, x in expected.items()
        if k in found and _shape(found[k]) != _shape(x)
    ]
    return missing + unexpected + different


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(array.shape)


def flatten(params: Params, separator: str = "/") -> dict[str, Any]:
    """``{"a": {"b": x}}`` -> ``{"a/b": x}``, in sorted order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {separator.join(str(part.key) for part in path): leaf for path, leaf in leaves}


def unflatten(flat: dict[str, Any], separator: str = "/") -> Params:
    """The inverse of ``flatten``."""
    tree: Params = {}
    for path, leaf in flat.items():
        *parents, name = path.split(separator)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def count(params: Params) -> int:
    """The number of scalars in ``params``."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def nbytes(tree: Any) -> int:
    """The bytes of the arrays of a pytree, or of what their shapes and dtypes describe."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
