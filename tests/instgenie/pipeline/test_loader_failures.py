"""Failures of sources reach those who need the records and nobody else; closing ends everything that waits."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from typing import Any

import pytest

from instgenie.pipeline.loader import Loader, StepLoad
from instgenie.pipeline.step_source import Loaded, StepLostError
from instgenie_cache import CacheError, RecordFormatError
from tests.cache.tiered import wait_until
from tests.instgenie.pipeline.loading import (
    Source,
    Waiting,
    a_loader,
    compute,
    load,
    release,
)

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (None, StepLostError),
        (RecordFormatError("not the model's"), RecordFormatError),
        (OSError("no disk"), CacheError),
    ],
)
@pytest.mark.parametrize("budget_blocks", [0, 100])
def test_failure_reaches_every_user_of_the_step_and_no_other(
    failure: Exception | None, expected: type[CacheError], budget_blocks: float
) -> None:
    a, b = Source("a"), Source("b")
    a.failures[2] = failure
    gate = a.gate(2)
    with a_loader(budget_blocks) as loader:
        users = [load(loader, a, range(6)), load(loader, Source("a"), range(6), is_ahead=True)]
        other = load(loader, b, range(6))
        gate.open()
        for block in range(2):  # which are there
            for user in users:
                user.payload(block)
            for user in users:
                user.computed(block)
        for user in users:
            for block in (2, 3, 2):
                with pytest.raises(expected) as raised:
                    user.payload(block)
                assert raised.type is expected
            assert user.error is not None
            assert not user.is_there(2)
        compute(other, range(6), "b")
        assert other.error is None
        assert loader.queued_bytes() == 0
        release([*users, other])
        assert loader.held_bytes == 0
    assert a.is_closed
    assert a.log[-1] == ("a", 2)  # nothing is read of it after that


def test_a_source_that_gives_too_little_is_an_error() -> None:
    a = Source("a", blocks=3)
    with a_loader() as loader:
        one = load(loader, a, range(4))
        with pytest.raises(CacheError, match="0 payloads of 1 blocks"):
            one.payload(3)
        release([one])
        assert loader.held_bytes == 0


def test_after_a_failure_the_step_can_be_loaded_anew_beside_those_who_have_it() -> None:
    broken, whole = Source("a"), Source("a")
    broken.failures[1] = None
    with a_loader() as loader:
        old = load(loader, broken, range(4))
        wait_until(lambda: isinstance(old.error, StepLostError))
        new = load(loader, whole, range(4))
        compute(old, range(1))
        release([old])
        third = load(loader, Source("a"), range(4))
        compute(new, range(4))
        release([new])
        assert not whole.is_closed
        compute(third, range(4))
        release([third])
        assert loader.held_bytes == 0
    assert broken.is_closed
    assert whole.is_closed


def test_failures_keep_nothing_alive() -> None:
    class Activations:
        pass

    def computes(one: StepLoad) -> weakref.ref[Activations]:
        activations = Activations()
        with pytest.raises(RecordFormatError):
            one.payload(0)
        return weakref.ref(activations)

    def loads(loader: Loader) -> list[weakref.ref[Any]]:
        a = Source("a")
        a.failures[0] = RecordFormatError("not the model's")
        one = load(loader, a, range(4))
        seen = [computes(one), computes(one)]
        assert [reference() for reference in seen] == [None, None]
        release([one])
        return [weakref.ref(a), weakref.ref(one)]

    gc.disable()  # what holds itself is held until it is collected
    try:
        with a_loader() as loader:
            seen = loads(loader)
            wait_until(lambda: all(reference() is None for reference in seen))
    finally:
        gc.enable()


def test_what_the_listener_or_closing_a_source_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Stubborn(Source):
        def close(self) -> None:
            super().close()
            raise OSError("no")

    def on_loaded(_: Loaded) -> None:
        raise ValueError("no")

    a = Stubborn("a")
    with caplog.at_level(logging.ERROR), a_loader(on_loaded=on_loaded) as loader:
        one = load(loader, a, range(4))
        other = load(loader, Stubborn("a"), range(4))
        compute(one, range(4))
        release([one, other])
        assert loader.held_bytes == 0
    assert a.is_closed
    assert {record.message for record in caplog.records} == {
        "a load cannot be reported",
        "a source cannot be closed",
    }


# Closing.


def test_closing_ends_a_computation_that_waits() -> None:
    a, b = Source("a"), Source("b")
    gate = a.gate(0)
    with a_loader() as loader:
        reading, queued = load(loader, a, range(4)), load(loader, b, range(4))
        gate.wait()
        waiting = Waiting(lambda: queued.payload(0))
        closing = Waiting(loader.close)
        error = waiting.end()  # though the source still keeps the thread
        assert isinstance(error, CacheError)
        assert not isinstance(error, StepLostError)  # nothing is known of the records
        assert not closing.is_done  # somebody reads the source's memory
        gate.open()
        assert closing.end() is None
        compute(reading, range(1))
        with pytest.raises(CacheError, match="closed"):
            reading.payload(1)
        release([reading, queued])
        assert loader.held_bytes == 0
    assert a.is_closed
    assert b.is_closed
    assert b.reads == []


def test_what_was_loaded_can_be_computed_with_after_closing() -> None:
    a = Source("a")
    with a_loader() as loader:
        one = load(loader, a, range(4))
        wait_until(lambda: one.is_there(3))
        loader.close()
        loader.close()
        compute(one, range(3))
        assert not a.is_closed
        release([one])
        assert loader.held_bytes == 0
    assert a.is_closed


def test_a_closed_loader_reads_nothing() -> None:
    a = Source("a")
    with a_loader() as loader:
        loader.close()
        one = load(loader, a, range(4))
        with pytest.raises(CacheError, match="closed"):
            one.payload(0)
        release([one])
        loader.close()
    assert a.is_closed
    assert a.reads == []
    assert not any(thread.name == "loader" for thread in threading.enumerate())


def test_a_step_that_is_released_while_the_loader_closes_is_closed_once() -> None:
    a = Source("a")
    gate = a.gate(0)
    with a_loader() as loader:
        one = load(loader, a, range(4))
        gate.wait()
        closing = Waiting(loader.close)
        release([one])
        gate.open()
        assert closing.end() is None
        assert a.is_closed_soon()
        wait_until(lambda: loader.held_bytes == 0)
