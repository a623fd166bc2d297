"""Steps that are computed with where their source has them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from instgenie.pipeline.direct_load import DirectLoad
from instgenie.pipeline.loader import Loader
from instgenie.pipeline.step_source import StepLostError
from instgenie_cache import CacheError
from tests.instgenie.pipeline.loading import Source, a_loader, is_right, load


@pytest.fixture
def loader() -> Iterator[Loader]:
    with a_loader(0) as loader:
        yield loader


def failing(error: Exception | None) -> Source:
    """A source whose block 1 cannot be read; None where it is lost."""
    source = Source()
    source.failures[1] = error
    return source


def test_steps_are_read_by_the_caller_and_hold_nothing(loader: Loader) -> None:
    a = Source(tier="host")
    one = loader.direct(a)
    one.begin(range(2, 8))
    assert one[2].data_ptr() == a.memory[2].data_ptr()
    for block in range(2, 8):
        assert is_right(one[block], "a", block)
        one.computed(block)
    assert (a.reads, a.threads) == ([range(2, 8)], {threading.current_thread()})
    assert (loader.held_bytes, loader.queued_bytes()) == (0, 0)
    assert not any(thread.name == "loader" for thread in threading.enumerate())
    assert (one.error, one.stalls_ms()) == (None, {})
    assert one.read_ms > 0
    one.release()


def test_source_is_closed_once_by_the_release_whether_or_not_it_was_read(loader: Loader) -> None:
    sources = [Source("a"), Source("b")]
    loads = [loader.direct(source) for source in sources]
    loads[0].begin(range(8))
    assert not any(source.is_closed for source in sources)
    for one in loads * 2:
        one.release()
    assert all(source.is_closed for source in sources)
    assert sources[1].reads == []


def test_a_source_that_cannot_be_closed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Source):
        def close(self) -> None:
            raise OSError("no such lease")

    DirectLoad(Broken()).release()
    assert "no such lease" in caplog.text


def test_it_is_valid_for_as_long_as_its_source() -> None:
    a = Source()
    one = DirectLoad(a)
    one.begin(range(8))
    assert one.is_valid
    a.lose()
    assert not one.is_valid
    one.release()


def test_lost_records_are_an_error_at_once() -> None:
    a = failing(None)
    one = DirectLoad(a)
    one.begin(range(4))
    assert isinstance(one.error, StepLostError)
    one.release()
    assert a.is_closed


def test_what_the_cache_raises_is_kept_without_its_frames(caplog: pytest.LogCaptureFixture) -> None:
    error = CacheError("the disk is gone")
    one = DirectLoad(failing(error))
    one.begin(range(4))
    assert one.error is error
    assert error.__traceback__ is None
    assert not caplog.records
    one.release()


def test_what_else_a_source_raises_is_logged_and_costs_the_step(caplog: pytest.LogCaptureFixture) -> None:
    one = DirectLoad(failing(OSError("a broken pipe")))
    with caplog.at_level(logging.ERROR):
        one.begin(range(4))
    assert isinstance(one.error, CacheError)
    assert "a broken pipe" in str(one.error)
    assert "Traceback" in caplog.text
    one.release()


def test_a_source_that_gives_too_little_is_an_error() -> None:
    one = DirectLoad(Source(blocks=3))
    one.begin(range(4))
    assert "3 payloads of 4 blocks" in str(one.error)
    one.release()


def test_a_closed_loader_reads_nothing(loader: Loader) -> None:
    a = Source()
    loader.close()
    one = loader.direct(a)
    one.begin(range(4))
    assert "closed" in str(one.error)
    one.release()
    assert a.reads == []
    assert a.is_closed


def test_it_does_not_wait_for_who_loads() -> None:
    mine, theirs = Source(owner="me"), Source(owner="them")
    gate = mine.gate(0)
    with a_loader() as loader:
        slow = load(loader, mine, range(4))
        gate.wait()
        one = loader.direct(theirs)
        one.begin(range(4))
        assert all(is_right(one[block], "a", block) for block in range(4))
        one.release()
        gate.open()
        slow.release()
