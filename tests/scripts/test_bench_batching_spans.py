"""What the benchmark of batching reads from traces."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bench.batching_spans import RUNNER, Event, Gap, Join, find_gaps, find_join, read_events, step_times
from instgenie.tracing import open_trace


def a_turn(at: float, edits: int, *, stage: str = "", lanes: int = 0) -> list[Event]:
    """10 ms of a runner: 1 schedule, 2 stage, 1 assemble, 0.5 inputs, 4 forward, 0.5 advance, 1 update."""
    events = [Event("schedule", at, at + 1)]
    if stage:
        events.append(Event(stage, at + 1, at + 3))
    values = {"edits": edits, "lanes": lanes}
    return [
        *events,
        Event("assemble", at + 3, at + 4),
        Event("compute", at + 4, at + 9, values=values),
        Event("forward", at + 4.5, at + 8.5),
        Event("update", at + 9, at + 10),
    ]


def turns(*kinds: tuple[int, str]) -> list[Event]:
    return [event for number, (edits, stage) in enumerate(kinds) for event in a_turn(10.0 * number, edits, stage=stage)]


def test_events_are_read_from_a_trace(tmp_path: Path) -> None:
    with open_trace(tmp_path / "trace.json") as tracer:
        tracer.event("arrival", number=3)
        tracer.add_span("wait", 1.0, 0.25, track="device")
        with tracer.span("outer", edits=2), tracer.span("inner"):
            pass
        tracer.count("batch", edits=1)
    events = {event.name: event for event in read_events(tmp_path / "trace.json")}
    assert events.keys() == {"arrival", "wait", "outer", "inner"}
    assert (events["arrival"].values, events["outer"].values) == ({"number": 3}, {"edits": 2})
    assert events["wait"].track == "device"
    assert events["wait"].end_ms - events["wait"].start_ms == pytest.approx(250)
    assert events["arrival"].track == events["outer"].track == "MainThread"
    assert events["arrival"].start_ms <= events["outer"].start_ms <= events["inner"].start_ms


def test_a_join_is_the_steps_that_began_between_arrival_and_the_first_own_one() -> None:
    events = turns((3, ""), (3, ""), (3, "encode"), (3, ""), (4, ""), (4, ""))
    join = find_join(events, arrived_ms=5, beside=3)  # while the first step runs
    assert join == Join(steps=3, steps_encoded=2, ms=39, step_ms=5)
    events = turns((3, ""), (3, "encode"), (4, ""))
    assert find_join(events, arrived_ms=5, beside=3) == Join(steps=1, steps_encoded=1, ms=19, step_ms=5)


def test_no_join_where_the_others_ended_or_nothing_was_encoded() -> None:
    assert find_join(turns((3, ""), (2, "encode"), (3, "")), 5, beside=3) is None
    assert find_join(turns((3, ""), (2, "encode"), (2, ""), (3, ""), (4, "")), 5, beside=3) is None
    assert find_join(turns((3, ""), (3, ""), (4, "")), 5, beside=3) is None
    other = [dataclasses.replace(event, track="another") for event in turns((3, "encode"), (4, ""))]
    assert find_join(other, 0, beside=3) is None


def test_a_gap_is_what_lies_between_two_forwards() -> None:
    gaps = find_gaps(turns((8, ""), (8, "")), 8)
    expected = Gap(advance=0.5, update=1, schedule=1, assemble=3, inputs=0.5)  # 2 of `assemble` is the unused stage
    assert gaps == [expected]
    assert expected.before_step == 4.5
    assert expected.total == 6


def test_gaps_with_pictures_lanes_or_other_edits_do_not_count() -> None:
    for stage in ("encode", "decode", "preview"):
        assert find_gaps(turns((8, ""), (8, stage)), 8) == []
    assert len(find_gaps(turns((8, "encode"), (8, "")), 8)) == 1  # that was before
    assert find_gaps(turns((8, ""), (7, "")), 8) == []
    assert find_gaps(a_turn(0, 8) + a_turn(10, 8, lanes=1), 8) == []
    pictures = [Event("finish", 9, 12, "pictures_0"), Event("decode", 11, 12, "another")]
    assert len(find_gaps(turns((8, ""), (8, "")) + pictures, 8)) == 1
    assert RUNNER not in {event.track for event in pictures}


def test_steps_are_those_of_so_many_edits() -> None:
    assert step_times(turns((2, ""), (3, "encode"), (3, "")), 3) == [5, 5]
    assert step_times(a_turn(0, 3, lanes=1), 3) == []
