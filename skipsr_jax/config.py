"""Frozen config dataclasses from plain values, and back: for files in configs/ and for checkpoints.

A config dataclass declares every key once: its name, type, default and range. From the declaration
follow

- ``complete``: a user's ConfigDict, to which the defaults of all keys that it leaves out are added,
  so that the command line knows every key;
- ``from_config``: the dataclass that a ConfigDict describes;
- ``explained``: what each key means and which values it takes, from the section ``Attributes`` of
  the docstring and the rules of ``__post_init__``;
- ``to_json`` and ``from_json``: the same for the JSON that travels with a checkpoint.

Invariants: ``from_json(type(c), json.loads(json.dumps(to_json(c))), source) == c``; an unknown key,
a missing key, a value of a wrong type and a value out of range are each refused by their dotted
name, all mistakes in one error.
"""

import contextlib
import contextvars
import dataclasses
import difflib
import inspect
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

from ml_collections import ConfigDict

from skipsr_jax.errors import UserError

T = TypeVar("T")

_INT_LIMITS = -(1 << 63), (1 << 63) - 1
_LONGEST_VALUE = 80  # characters of a value in a message


class OutOfRange(UserError):
    """A key has a value outside its range. The message names the key, the value and the rule.

    ``__post_init__`` of a config dataclass raises it with the field's own name; ``from_config`` and
    ``from_json`` put the path of the enclosing sections in front of it.
    """


_RULES: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("rules")
"""While ``_rules_of`` asks for them: the rule of each key."""


def require(good: bool, key: str, value: object, rule: str) -> None:
    """Raises OutOfRange, "<key> is <value>: it must be <rule>", unless ``good``."""
    rules = _RULES.get(None)
    if rules is not None:
        rules[key] = f"{rules[key]}; {rule}" if key in rules else rule
    elif not good:
        raise OutOfRange(f"{key} is {value_text(value)}: it must be {rule}")


def require_between(
    key: str, value: float | int, low: float | int, high: float | int, unit: str = ""
) -> None:
    """Raises OutOfRange unless ``low <= value <= high`` (so NaN is refused)."""
    rule = f"from {low} to {high} {unit}".rstrip()
    require(low <= value <= high, key, value, rule)


def require_one_of(key: str, value: object, choices: Sequence[object]) -> None:
    """Raises OutOfRange unless ``value`` is one of ``choices``."""
    require(value in choices, key, value, "one of " + ", ".join(str(choice) for choice in choices))


def suggestion(key: str, known: Sequence[str]) -> str:
    """A hint for an unknown dotted key: the nearest known keys, or all of them."""
    inside = [name for name in known if name.startswith(key + ".")]
    same_last = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = inside or same_last or difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"


def to_json(config: Any) -> dict[str, Any]:
    """The dataclass as nested dicts, lists, numbers and strings."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def defaults(cls: type) -> dict[str, Any]:
    """The default of every key as nested dicts; a key without a default is absent.

    No ``__post_init__`` of ``cls`` runs, because the defaults alone may be out of range: a path
    that the user has to name is "" by default.
    """
    found = {}
    for field in dataclasses.fields(cls):
        factory = field.default_factory
        if dataclasses.is_dataclass(factory):
            found[field.name] = defaults(factory)
            continue
        value = field.default if factory is dataclasses.MISSING else factory()
        if value is not dataclasses.MISSING:
            found[field.name] = _sections(value) if dataclasses.is_dataclass(value) else value
    return found


def _sections(config: Any) -> dict[str, Any]:
    """A dataclass as nested dicts, one for each section, with its values as they are."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {k: _sections(v) if dataclasses.is_dataclass(v) else v for k, v in values.items()}


def _over(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """``values`` laid over ``base``, section by section."""
    merged = base | values
    for key in base.keys() & values.keys():
        if isinstance(base[key], dict) and isinstance(values[key], dict):
            merged[key] = _over(base[key], values[key])
    return merged


def complete(config: ConfigDict, base: dict[str, Any]) -> ConfigDict:
    """``config``, changed in place, with the entries of ``base`` that it lacks.

    A key that ``base`` does not know stays, for ``from_config`` to refuse. An int where the default
    is a float becomes a float, so that the command line takes fractions for it.
    """
    with config.unlocked():
        for key, value in base.items():
            if key not in config:
                config[key] = ConfigDict(value) if isinstance(value, dict) else value
            elif isinstance(value, dict) and isinstance(config[key], ConfigDict):
                complete(config[key], value)
            elif isinstance(value, float) and type(config[key]) is int:
                with config.ignore_type():
                    config[key] = float(config[key])
    return config


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The entries of nested dicts under their dotted names, in order."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        found |= flattened(value, f"{prefix}{key}.") if inner else {prefix + key: value}
    return found


def explained(cls: type, values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """What each entry of a config means and which values it takes, by its dotted name.

    Args:
      cls: the dataclass of the config, or of a section of it.
      values: of the entries, as nested dicts; some rules depend on those of other entries.
      prefix: of the names.
    """
    kinds, texts, rules = typing.get_type_hints(cls), _attributes_of(cls), _rules_of(cls, values)
    found = {}
    for name, value in values.items():
        kind = kinds.get(name)
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            found |= explained(kind, value, f"{prefix}{name}.")
            continue
        rule = rules.get(name, "")
        if typing.get_origin(kind) is typing.Literal and not rule:
            rule = "one of " + ", ".join(map(str, typing.get_args(kind)))
        text = texts.get(name, "").rstrip(".")
        found[prefix + name] = f"{text}; must be {rule}" if text and rule else text
    return found


def _attributes_of(cls: type) -> dict[str, str]:
    """The text that the docstring of a dataclass, or of a base class, has for each attribute."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        section = section.partition("\n\n")[0]
        for entry in re.findall(r"^ {2}(?! )(.+(?:\n {4}.+)*)", section, re.MULTILINE):
            names, _, text = " ".join(entry.split()).partition(": ")
            found |= dict.fromkeys(names.split(", "), text)
    return found


def _rules_of(cls: type, values: dict[str, Any]) -> dict[str, str]:
    """What ``__post_init__`` of a dataclass demands of each field, whether ``values`` do it or not.

    It runs on an object with these values, and ``require`` notes the rule instead of raising.
    """
    check = getattr(cls, "__post_init__", None)
    if check is None:
        return {}
    token = _RULES.set(rules := {})
    try:
        with contextlib.suppress(ValueError, TypeError):  # values that break other rules
            check(_unchecked(cls, values))
    finally:
        _RULES.reset(token)
    return rules


def _unchecked(cls: type[T], values: dict[str, Any]) -> T:
    """The dataclass with these values, which may be out of range."""
    kinds, made = typing.get_type_hints(cls), object.__new__(cls)
    for name, value in values.items():
        kind = kinds.get(name)
        if dataclasses.is_dataclass(kind) and isinstance(value, dict):
            value = _unchecked(kind, value)
        object.__setattr__(made, name, value)
    return made


def _fitted(kind: Any, value: Any, name: str, wrong: list[str]) -> Any:
    """``value`` as the annotation ``kind`` wants it; a mismatch is noted in ``wrong``."""
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
        wrong.append(
            f"{name} is {value_text(value)}: it must be one of {', '.join(map(str, inner))}"
        )
        return value
    elif kind is Any or (kind is type(None) and value is None):
        return value
    elif kind is float and type(value) in (int, float):
        with contextlib.suppress(OverflowError):  # an int beyond all floats
            if math.isfinite(value):
                return float(value)
            wrong.append(f"{name} is {value}: it must be a finite number")
            return value
    elif kind is int and type(value) is int and not _INT_LIMITS[0] <= value <= _INT_LIMITS[1]:
        wrong.append(f"{name} is {value_text(value)}: it must be a number of 64 bits")
        return value
    elif type(value) is kind:
        return value
    wrong.append(f"{name} is {value_text(value)}, not {getattr(kind, '__name__', kind)}")
    return value


def value_text(value: Any) -> str:
    """The value in a message, where it is not too long for a line."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _built(cls: type[T], values: dict[str, Any], prefix: str, wrong: list[str]) -> T | None:
    """The dataclass, or None where something of it is noted in ``wrong``."""
    kinds = typing.get_type_hints(cls)
    base = defaults(cls)
    values = _over(base, values)
    before = len(wrong)
    known = [prefix + name for name in flattened(dict.fromkeys(kinds) | base)]
    for name in values.keys() - kinds.keys():
        wrong.append(f"unknown {prefix}{name}, {suggestion(prefix + name, known)}")
    fitted = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = field.name
        if name in values:
            fitted[name] = _fitted(kinds[name], values[name], prefix + name, wrong)
        else:
            wrong.append(f"missing {prefix}{name}")
    if len(wrong) > before:
        return None
    try:
        return cls(**fitted)
    except OutOfRange as error:
        wrong.append(f"{prefix}{error}")
    except ValueError as error:  # a rule about several fields
        wrong.append(f"{prefix.rstrip('.') or cls.__name__}: {error}")
    return None


def from_config(cls: type[T], config: ConfigDict | dict[str, Any], prefix: str = "config.") -> T:
    """The dataclass that a user's config describes; a key that it leaves out has its default.

    Raises UserError naming, with ``prefix``, every unknown key, wrong type and value out of range.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else config
    wrong: list[str] = []
    built = _built(cls, values, prefix, wrong)
    if built is None:
        raise UserError("; ".join(sorted(wrong)))
    return built


def from_json(cls: type[T], values: dict[str, Any], source: str) -> T:
    """The dataclass that ``values`` describes. ``source`` names the checkpoint in errors.

    Raises UserError naming unknown and missing fields, wrong types and values out of range.
    """
    if not isinstance(values, dict):
        raise UserError(f"{source}: its config is not a {cls.__name__}: it is {value_text(values)}")
    wrong: list[str] = []
    built = _built(cls, values, "", wrong)
    if built is None:
        raise UserError(f"{source}: its config is not a {cls.__name__}: {'; '.join(sorted(wrong))}")
    return built
