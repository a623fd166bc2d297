"""Memory of decoded pictures."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from instgenie_server.access.pixel_budget import PixelBudget
from instgenie_server.api_error import ApiError


def test_what_is_held_is_given_back() -> None:
    budget = PixelBudget(100)
    with budget.hold() as first:
        first.take(60)
        with budget.hold() as second:
            second.take(40)
            assert budget.held_bytes == 100
            with pytest.raises(ApiError, match="hold 100 bytes; with 1 more that exceeds the limit of 100") as caught:
                second.take(1)
            assert (caught.value.status, caught.value.code) == (429, "pictures_busy")
            assert caught.value.retry_after is not None
        assert budget.held_bytes == 60
    assert budget.held_bytes == 0


def test_a_request_that_exceeds_the_budget_alone_runs_when_no_other_is_there() -> None:
    budget = PixelBudget(100)
    with budget.hold() as large:
        large.take(500)
        large.take(100)  # its mask
        with budget.hold() as other, pytest.raises(ApiError):
            other.take(1)
    with budget.hold() as small, budget.hold() as large:
        small.take(1)
        with pytest.raises(ApiError):
            large.take(500)


def test_what_a_thread_takes_for_a_request_that_is_over_is_not_held() -> None:
    """A decoder goes on for a while when its client has left."""
    budget = PixelBudget(100)
    with budget.hold() as hold:
        hold.take(10)
    with pytest.raises(ApiError, match="is over"):
        hold.take(10)
    assert budget.held_bytes == 0


def test_threads_take_no_more_than_there_is() -> None:
    budget = PixelBudget(1000)

    def take(_: int) -> bool:
        try:
            hold.take(10)
        except ApiError:
            return False
        return True

    with budget.hold() as other, budget.hold() as hold, ThreadPoolExecutor(8) as pool:
        other.take(10)
        assert sum(pool.map(take, range(300))) == 99
        assert budget.held_bytes == 1000
