"""Jobs survive becoming rows, cursors becoming text."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.jobs.errors import CursorError
from instgenie_server.jobs.job import JobState
from instgenie_server.jobs.job_rows import COLUMNS, from_cursor, from_row, to_cursor, to_row
from tests.server.jobs.fakes import a_job

times = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | times | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
objects = st.dictionaries(st.text(), values, max_size=4)


@given(objects, objects, st.sampled_from(JobState), times, st.integers(-5, 5))
def test_rows(
    params: dict[str, Any], detail: dict[str, Any], state: JobState, created_at: float, priority: int
) -> None:
    job = a_job(params=params, detail=detail, state=state, created_at=created_at, priority=priority, mask="m")
    row = to_row(job)
    assert from_row(row) == job
    assert all(value.isascii() for value in row if isinstance(value, str))
    assert row[COLUMNS.index("state")] == state.value


@given(times)
def test_cursors(created_at: float) -> None:
    job = a_job(created_at=created_at)
    assert from_cursor(to_cursor(job)) == (created_at, job.id)


@given(st.text(st.characters(exclude_categories=())))
@pytest.mark.parametrize("start", ["", "0000000000000000", "0000000000000000."])
def test_what_is_no_cursor(start: str, text: str) -> None:
    with contextlib.suppress(CursorError):
        _, job_id = from_cursor(start + text)
        assert job_id.isascii()
