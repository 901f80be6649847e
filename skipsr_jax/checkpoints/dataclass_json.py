"""Frozen config dataclasses <-> the JSON that travels with a checkpoint.

Invariant: ``from_json(type(config), json.loads(json.dumps(to_json(config)))) == config``; JSON that
does not describe the dataclass exactly is refused, with every mistake named.
"""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from skipsr_jax.errors import UserError

T = TypeVar("T")


def to_json(config: Any) -> dict[str, Any]:
    """The dataclass as nested dicts, lists, numbers and strings."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _fitted(kind: Any, value: Any, name: str, wrong: list[str]) -> Any:
    """``value`` as ``kind`` wants it; a mismatch is noted in ``wrong``."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if isinstance(value, dict):
            return _built(kind, value, name + ".", wrong)
    elif origin in (typing.Union, types.UnionType):
        for option in inner:
            attempt: list[str] = []
            fitted = _fitted(option, value, name, attempt)
            if not attempt:
                return fitted
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
            if len(kinds) == len(value):
                items = enumerate(zip(kinds, value, strict=True))
                return tuple(_fitted(k, v, f"{name}[{i}]", wrong) for i, (k, v) in items)
    elif origin is typing.Literal:
        if value in inner:
            return value
    elif kind is Any or (kind is type(None) and value is None):
        return value
    elif kind is float and type(value) in (int, float):
        return float(value)
    elif type(value) is kind:
        return value
    wrong.append(f"{name} is {value!r}, not {getattr(kind, '__name__', kind)}")
    return value


def _built(cls: type[T], values: dict[str, Any], prefix: str, wrong: list[str]) -> T | None:
    kinds = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    before = len(wrong)
    wrong += [f"unknown {prefix}{name}" for name in values.keys() - fields.keys()]
    for name, field in fields.items():
        missing = dataclasses.MISSING
        if name not in values and field.default is missing and field.default_factory is missing:
            wrong.append(f"missing {prefix}{name}")
    given = {
        name: _fitted(kinds[name], values[name], prefix + name, wrong)
        for name in fields
        if name in values
    }
    if len(wrong) > before:
        return None
    try:
        return cls(**given)
    except ValueError as error:  # the dataclass' own range checks
        wrong.append(f"{prefix.rstrip('.') or cls.__name__}: {error}")
        return None


def from_json(cls: type[T], values: dict[str, Any], source: str) -> T:
    """The dataclass that ``values`` describes. ``source`` names the checkpoint in errors.

    Raises UserError naming unknown and missing fields, wrong types and values out of range.
    """
    wrong: list[str] = []
    config = _built(cls, values, "", wrong)
    if config is None:
        raise UserError(f"{source}: its config is not a {cls.__name__}: {'; '.join(sorted(wrong))}")
    return config
