"""Config dataclasses through JSON: exact round trips, and every mistake named."""

import dataclasses
import json
from typing import Literal

import pytest

from skipsr_jax.checkpoints import dataclass_json
from skipsr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5

    def __post_init__(self):
        if self.rate < 0:
            raise ValueError(f"rate {self.rate} must not be negative")


@dataclasses.dataclass(frozen=True)
class Outer:
    width: int
    channels: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "a")
    limit: int | None = None
    kind: Literal["a", "b"] = "a"
    gated: bool = False
    inner: Inner = Inner()


def test_round_trip_through_json():
    config = Outer(3, (4, 5, 6), (2, "z"), 7, "b", True, Inner(2.0))
    text = json.dumps(dataclass_json.to_json(config))
    assert dataclass_json.from_json(Outer, json.loads(text), "x") == config
    assert dataclass_json.from_json(Outer, {"width": 3}, "x") == Outer(3)
    assert dataclass_json.from_json(Outer, {"width": 3, "inner": {"rate": 2}}, "x").inner.rate == 2


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
        ({"width": 3, "kind": "c"}, "kind is 'c'"),
        ({"width": 3, "inner": {"rate": -1}}, "inner: rate -1.0 must not"),
        ({"width": 3, "inner": {"speed": 1}}, "unknown inner.speed"),
        ({"width": "3", "other": 1}, "unknown other; width is"),
    ],
)
def test_mistakes_are_named(values, message):
    with pytest.raises(UserError, match=f"ckpt: .*{message}"):
        dataclass_json.from_json(Outer, values, "ckpt")
