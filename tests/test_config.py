"""Config dataclasses from a ConfigDict and through JSON: defaults, round trips, named mistakes."""

import dataclasses
import json
import math
from typing import Literal

import pytest
from ml_collections import ConfigDict

from skipsr_jax import config as configs
from skipsr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    """A section.

    Attributes:
      rate: how fast; 0:
        not at all.

    Nothing else.
    """

    rate: float = 0.5

    def __post_init__(self):
        configs.require(self.rate >= 0, "rate", self.rate, "at least 0")


@dataclasses.dataclass(frozen=True)
class Outer:
    """A config.

    Attributes:
      low, high: two limits.
      kind: of thing.
    """

    width: int
    channels: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "a")
    limit: int | None = None
    kind: Literal["a", "b"] = "a"
    gated: bool = False
    inner: Inner = Inner(0.25)
    low: int = 0
    high: int = 9

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")


def test_round_trip_through_json():
    config = Outer(3, (4, 5, 6), (2, "z"), 7, "b", True, Inner(2.0))
    text = json.dumps(configs.to_json(config))
    assert configs.from_json(Outer, json.loads(text), "x") == config
    assert configs.from_json(Outer, {"width": 3}, "x") == Outer(3)
    assert configs.from_json(Outer, {"width": 3, "inner": {"rate": 2}}, "x").inner.rate == 2


@pytest.mark.parametrize(
    "values,message",
    [
        ({}, "missing width"),
        ({"width": 3, "wdith": 4}, "unknown wdith"),
        ({"width": "3"}, "width is '3', not int"),
        ({"width": True}, "width is True"),
        ({"width": 3, "channels": [1, "2"]}, r"channels\[1\] is '2'"),
        ({"width": 3, "pair": [1]}, "pair is"),
        ({"width": 3, "limit": "none"}, "limit is 'none'"),
        ({"width": 3, "kind": "c"}, "kind is 'c': it must be one of a, b"),
        ({"width": 3, "inner": {"rate": -1}}, r"inner\.rate is -1\.0: it must be at least 0"),
        ({"width": 3, "inner": {"speed": 1}}, r"unknown inner\.speed, "),
        ({"width": 3, "low": 2, "high": 1}, "Outer: low 2 is above high 1"),
        ({"width": "3", "other": 1}, "unknown other, .*; width is"),
        ({"width": 1 << 63}, "width is 9223372036854775808: it must be a number of 64 bits"),
        ({"width": 10**5000}, "width is a number of 16610 bits: it must be a number of 64 bits"),
        ({"width": 3, "inner": {"rate": 10**400}}, r"inner.rate is 10+\.\.\., not float"),
        ({"width": 3, "inner": {"rate": math.nan}}, "inner.rate is nan: it must be a finite"),
        ({"width": 3, "inner": {"rate": math.inf}}, "inner.rate is inf: it must be a finite"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=f"ckpt: .*{message}"):
        configs.from_json(Outer, values, "ckpt")


def test_a_config_holds_what_differs_from_the_defaults():
    config = ConfigDict({"width": 3, "pair": (2, "b")})
    made = configs.from_config(Outer, config)
    assert made == Outer(3, pair=(2, "b")) and made.inner.rate == 0.25
    configs.complete(config, configs.defaults(Outer))
    assert configs.from_config(Outer, config) == made
    assert config.inner.rate == 0.25 and config.width == 3 and config.kind == "a"
    assert set(configs.flattened(config.to_dict())) >= {"width", "inner.rate", "limit"}
    assert "width" not in configs.defaults(Outer)


def test_keys_are_explained_where_they_are_declared():
    """By docstring and rules; values out of range, or unknown, change nothing about the texts."""
    values = {"low": 3, "high": 1, "kind": "a", "other": 1, "inner": {"rate": -1.0}}
    assert configs.explained(Outer, values) == {
        "low": "two limits",
        "high": "two limits",
        "kind": "of thing; must be one of a, b",
        "other": "",
        "inner.rate": "how fast; 0: not at all; must be at least 0",
    }
    with pytest.raises(UserError, match="at least 0"):
        Inner(-1.0)


def test_a_section_keeps_the_other_defaults_of_the_field():
    """``inner`` is 0.25 here, not the 0.5 of the class, whichever key of it is written."""
    assert configs.from_config(Outer, {"width": 3, "inner": {}}).inner.rate == 0.25


def test_completion_keeps_references_and_makes_floats():
    config = ConfigDict({"width": 3, "inner": {"rate": 2}})
    config.high = config.get_ref("width")
    configs.complete(config, configs.defaults(Outer))
    assert type(config.inner.rate) is float
    config.width = 4
    assert config.high == 4


@pytest.mark.parametrize(
    "values,message",
    [
        ({"inner": {"rate": -1.0}}, r"config\.inner\.rate is -1\.0: it must be at least 0"),
        (
            {"inner": {"rte": 1.0}},
            r"unknown config\.inner\.rte, did you mean config\.inner\.rate",
        ),
        ({"rate": 1.0}, r"unknown config\.rate, did you mean config\.inner\.rate\?"),
        ({"inner": 4}, r"config\.inner is 4, not Inner"),
    ],
)
def test_mistakes_of_a_config_name_the_dotted_key(values, message):
    with pytest.raises(UserError, match=message):
        configs.from_config(Outer, {"width": 3} | values)
