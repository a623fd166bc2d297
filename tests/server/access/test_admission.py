"""What may wait, in predicted seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.access.admission import refusal

seconds = st.floats(0, 1e6, allow_subnormal=False)  # half of the least one is none
limits = st.floats(1e-3, 1e6)


@pytest.mark.parametrize(
    ("waiting", "order", "retry_after"),
    [
        (0, 10, None),
        (90, 10, None),
        (95, 10, 5),
        (100, 10, 10),
        (250, 10, 160),
        (0, 500, None),
        (30, 500, 30),
    ],
)
def test_cases(waiting: float, order: float, retry_after: float | None) -> None:
    error = refusal(waiting, order, 100)
    assert (None if error is None else error.retry_after) == retry_after


def test_error_says_what_waits() -> None:
    error = refusal(95, 10, 100)
    assert error is not None
    assert (error.status, error.type, error.code) == (429, "rate_limit_error", "overloaded")
    for number in ("95.0", "10.0", "100"):
        assert number in error.message


def test_more_replicas_drain_faster() -> None:
    error = refusal(100, 10, 100, seconds_per_second=4)
    assert error is not None
    assert error.retry_after == 2.5


@given(order=seconds, limit=limits)
def test_whatever_the_size_it_runs_where_nothing_waits(order: float, limit: float) -> None:
    assert refusal(0, order, limit) is None


@given(waiting=seconds, order=seconds, limit=limits)
def test_what_is_admitted_stays_within_the_limit(waiting: float, order: float, limit: float) -> None:
    if refusal(waiting, order, limit) is None:
        assert waiting == 0 or waiting + order <= limit * (1 + 1e-6)


@given(waiting=seconds, order=seconds, limit=limits, speed=st.floats(0.5, 16))
def test_it_is_admitted_after_the_time_that_it_is_told(
    waiting: float, order: float, limit: float, speed: float
) -> None:
    error = refusal(waiting, order, limit, speed)
    if error is not None:
        assert error.retry_after is not None
        assert error.retry_after > 0
        told_seconds = float(error.headers()["retry-after"])  # whole seconds, rounded up
        assert refusal(max(0.0, waiting - told_seconds * speed), order, limit, speed) is None


@given(waiting=seconds, order=seconds, limit=limits, more=seconds)
def test_more_that_waits_is_never_admitted_sooner(waiting: float, order: float, limit: float, more: float) -> None:
    error, later = refusal(waiting, order, limit), refusal(waiting + more, order, limit)
    if error is not None:
        assert later is not None
        assert later.retry_after is not None
        assert error.retry_after is not None
        assert later.retry_after >= error.retry_after
