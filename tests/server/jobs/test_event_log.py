"""The events of one job: numbered upwards across restarts, bounded, the end last and never dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.jobs.event_log import END_ID, MAX_EVENTS, EventKind, EventLog, JobEvent, end_event, parse_event_id
from instgenie_server.jobs.job import JobState
from tests.server.jobs.fakes import a_job

happenings = st.lists(
    st.tuples(
        st.sampled_from([EventKind.QUEUED, EventKind.STARTED, EventKind.STEP, EventKind.STEP]), st.booleans()
    ).map(lambda pair: (pair[0], pair[1] and pair[0] is EventKind.STEP)),
    max_size=3 * MAX_EVENTS,
)


def a_log(happened: list[tuple[EventKind, bool]], generation: int = 1) -> EventLog:
    log = EventLog(generation)
    for number, (kind, has_preview) in enumerate(happened):
        log.append(kind, {"number": number}, b"preview" if has_preview else None)
    return log


def an_end(state: JobState = JobState.FAILED) -> Any:
    return a_job(state=state, detail={"code": "c"})


@given(happenings, st.booleans())
def test_invariants(happened: list[tuple[EventKind, bool]], ends: bool) -> None:
    log = a_log(happened)
    if ends:
        log.end(an_end())
        for kind, _ in happened[:2]:
            log.append(kind, {"number": "late"})
        log.end(an_end(JobState.DONE))
    ids = [event.id for event in log.events]
    assert ids == sorted(set(ids))
    kinds = [event.kind for event in log.events]
    assert kinds.count(EventKind.QUEUED) <= 1
    assert kinds.count(EventKind.STARTED) == [kind for kind, _ in happened].count(EventKind.STARTED)
    assert len(log.events) <= max(MAX_EVENTS, kinds.count(EventKind.STARTED) + 3)
    previews = [event for event in log.events if event.preview is not None]
    assert len(previews) <= 1
    assert log.is_ended == ends
    if ends:
        assert log.events[-1] == JobEvent(END_ID, EventKind.FAILED, {"code": "c"})
        assert not previews
    else:
        assert all(event.id < END_ID for event in log.events)
        with_preview = [number for number, (_, has_preview) in enumerate(happened) if has_preview]
        if with_preview:
            assert [event.data["number"] for event in previews] == with_preview[-1:]
    if happened:
        newest = log.events[-2 if ends else -1]
        assert newest.data == {"number": len(happened) - 1}  # old ones make room, not new ones


@given(happenings, st.integers(0, 3 * MAX_EVENTS))
def test_resume_within_a_generation(happened: list[tuple[EventKind, bool]], seen: int) -> None:
    log = a_log(happened)
    for event in log.events[:seen][-1:]:
        assert log.later_than(log.resume_after(event.id)) == log.events[:][log.events.index(event) + 1 :]


@given(happenings, happenings, st.integers(1, 1000))
def test_everything_is_later_than_before_the_restart(
    before: list[tuple[EventKind, bool]], after: list[tuple[EventKind, bool]], generation: int
) -> None:
    old, new = a_log(before, generation), a_log(after, generation + 1)
    for event in old.events:
        assert new.later_than(new.resume_after(event.id)) == new.events
        new_end = a_log(after, generation + 1)
        new_end.end(an_end())
        assert new_end.later_than(new_end.resume_after(event.id))[-1].id == END_ID


@given(happenings, st.integers(0, END_ID))
def test_no_id_hides_the_end(happened: list[tuple[EventKind, bool]], last_seen: int) -> None:
    log = a_log(happened)
    seen = log.resume_after(last_seen)  # by a client that follows while the job runs
    log.end(an_end())
    assert log.later_than(seen)[-1].id == END_ID


def test_who_saw_the_end_is_through() -> None:
    log = a_log([(EventKind.QUEUED, False)])
    log.end(an_end())
    assert log.later_than(log.resume_after(END_ID)) == []


def test_ids_of_unknown_origin_replay_all() -> None:
    log = a_log([(EventKind.QUEUED, False), (EventKind.STARTED, False)])
    for last_seen in (None, 0, log.events[-1].id + 1, END_ID):
        assert log.later_than(log.resume_after(last_seen)) == log.events


def test_a_position_is_not_told_twice_in_a_row() -> None:
    log = EventLog(1)
    for position in (2, 2, 1):
        log.append(EventKind.QUEUED, {"position": position})
    assert [(event.id & 0xFFFFFF, event.data["position"]) for event in log.events] == [(2, 1)]


def test_ends_carry_the_names_of_the_states() -> None:
    for state in JobState:
        if state.is_end:
            assert end_event(an_end(state)).kind.value == state.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("abc", None),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("1" * 100, None),
        ("17", 17),
        (str(END_ID), END_ID),
    ],
)
def test_last_event_id_headers(text: str | None, expected: int | None) -> None:
    assert parse_event_id(text) == expected
