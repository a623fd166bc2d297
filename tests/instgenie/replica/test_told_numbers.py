"""Numbers that a replica in good order would not tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass

import pytest

from instgenie.balancer.step_costs import LoadSeconds, StepCosts, TokenSeconds
from instgenie.orders import HeldTemplate, ModelCard, ReplicaStats, StepReport
from instgenie.replica.fields import read_fields, to_fields
from instgenie.replica.messages import Welcome
from instgenie.replica.speed import Speed
from instgenie_cache.errors import ProtocolError
from tests.instgenie.replica.scripted_replica import CARD, OUTCOME, TIMINGS, WINDOW

COSTS = StepCosts(0.25, TokenSeconds(1e-5), TokenSeconds(2e-5), {"host": LoadSeconds(0.0, 1e-10)}, 0.125)
WELCOME = Welcome(instance="a", model=CARD, is_draining=False, seconds_per_token=0.5, costs=COSTS)
SPEED = Speed(0.5, COSTS)
TOLD = [WELCOME, ReplicaStats(), SPEED, TIMINGS, OUTCOME, WINDOW, StepReport(1, 4), HeldTemplate(100, 2)]


def numbers(told: object, *place: str) -> Iterator[tuple[str, ...]]:
    """Where there are numbers in a message."""
    for name, value in to_fields(told).items() if is_dataclass(told) else ():
        if type(value) in (int, float):
            yield *place, name
        elif not isinstance(value, str | bytes | bool | None):
            inner = getattr(told, name)
            yield from numbers(inner, *place, name)
            for key in inner if isinstance(inner, Mapping) else ():
                yield from numbers(inner[key], *place, name, key)


@pytest.mark.parametrize("told", TOLD, ids=lambda told: type(told).__name__)
@pytest.mark.parametrize("wrong", [-1, 2**62, 1e300, float("nan")])
def test_numbers_that_no_replica_tells(told: object, wrong: float) -> None:
    places = list(numbers(told))
    assert places
    for place in places:
        fields = to_fields(told)
        inner = fields
        for name in place[:-1]:
            inner = inner[name]
        whole = type(inner[place[-1]]) is int
        inner[place[-1]] = wrong
        known = {"image": b""} if told is OUTCOME else {}
        message = "is not to be" if whole and type(wrong) is float else f"{place[-1]} is .*has to be in"
        with pytest.raises(ProtocolError, match=message):
            read_fields(type(told), {name: fields[name] for name in fields if name not in known}, **known)


def test_a_number_is_refused_with_its_limit() -> None:
    with pytest.raises(ProtocolError, match=r"ModelCard\.text_tokens is 1000000000, it has to be in 0\.\.65536"):
        read_fields(ModelCard, to_fields(CARD) | {"text_tokens": 10**9})
    with pytest.raises(ProtocolError, match="a canvas of 4 pixels is less than a patch, 8"):
        read_fields(Welcome, to_fields(WELCOME) | {"model": to_fields(CARD) | {"canvas_pixels": 4}})
