"""How an event is written."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie.tracing.trace_event import TraceEvent, Track, event_json

NOW_NS = 1_800_000_000_123_456_789


def written(event: TraceEvent) -> Any:
    """The event as a reader sees it who knows no constants beyond JSON's."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(event_json(event, 7, 8), parse_constant=refuse)


def span(start_ns: int, end_ns: int, **attributes: Any) -> TraceEvent:
    return TraceEvent("X", "compute", start_ns, end_ns - start_ns, Track("replica", 8), attributes)


def test_a_span() -> None:
    assert written(span(NOW_NS, NOW_NS + 2_500_000, batch=4, share=0.5, key="a", cached=True)) == {
        "name": "compute",
        "ph": "X",
        "ts": 1_800_000_000_123_456,
        "dur": 2500,
        "pid": 7,
        "tid": 8,
        "args": {"batch": 4, "share": 0.5, "key": "a", "cached": True},
    }


@given(st.lists(st.integers(0, 10_000), min_size=4, max_size=4).map(sorted))
def test_spans_nest_as_they_did(offsets_ns: list[int]) -> None:
    first, second, third, fourth = (NOW_NS + offset for offset in offsets_ns)
    outer, inner, before, after = (
        written(span(*ends)) for ends in ((first, fourth), (second, third), (first, second), (second, fourth))
    )
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"]
    assert before["ts"] + before["dur"] <= after["ts"]
    assert float(inner["ts"]) == inner["ts"]  # readers take it as a double


@pytest.mark.parametrize(
    ("value", "shown"),
    [(math.nan, "nan"), (-math.inf, "-inf"), (np.float32(0.5), "0.5"), (np.int64(3), "3"), ('"\n\udc80', '"\n\udc80')],
)
def test_values_that_json_has_no_word_for(value: Any, shown: str) -> None:
    assert written(span(NOW_NS, NOW_NS, value=value))["args"]["value"] == shown


def test_an_event_without_attributes() -> None:
    event = written(TraceEvent("i", "cancelled", NOW_NS, 0, Track("replica", 8), {}))
    assert event == {"name": "cancelled", "ph": "i", "s": "t", "ts": 1_800_000_000_123_456, "pid": 7, "tid": 8}
