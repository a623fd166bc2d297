"""Requests that are being answered."""

from __future__ import annotations

import asyncio

import pytest

from instgenie_server.in_flight import InFlight


async def test_idle_waits_for_the_last_request() -> None:
    in_flight = InFlight()
    await in_flight.idle()
    with in_flight.request():
        idle = asyncio.create_task(in_flight.idle())
        with in_flight.request():
            assert in_flight.count == 2
        await asyncio.sleep(0)
        assert not idle.done()
    await idle
    assert in_flight.count == 0


async def test_failed_requests_are_counted_out() -> None:
    in_flight = InFlight()
    with pytest.raises(ValueError, match="x"), in_flight.request():
        raise ValueError("x")
    assert in_flight.count == 0
    await in_flight.idle()
