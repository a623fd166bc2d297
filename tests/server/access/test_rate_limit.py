"""Requests per minute."""

from __future__ import annotations

import pytest

from instgenie_server.access.rate_limit import RateLimiter
from instgenie_server.api_error import ApiError
from tests.server.manual_clock import ManualClock


def test_next_request_is_let_through_when_it_says() -> None:
    clock = ManualClock()
    limiter = RateLimiter(2, clock)
    limiter.check("a")
    clock.now += 12.5
    limiter.check("a")
    with pytest.raises(ApiError, match="2 requests in a minute") as caught:
        limiter.check("a")
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert caught.value.retry_after == 47.5
    assert caught.value.headers() == {"retry-after": "48", "retry-after-ms": "47500"}
    limiter.check("b")
    clock.now += 47.5
    limiter.check("a")


def test_no_limit() -> None:
    limiter = RateLimiter(None, ManualClock())
    for _ in range(1000):
        limiter.check("a")
