"""Which deletion is tried again, and when."""

from __future__ import annotations

from instgenie_cache.stores.waiting_deletions import WaitingDeletions

RETRY, SLOW = 30.0, 1.0
QUICKLY = 0.1


def waiting_deletions() -> WaitingDeletions:
    return WaitingDeletions(RETRY, SLOW)


def test_nothing_waits() -> None:
    waiting = waiting_deletions()
    assert waiting.seconds_to_next(now=0) is None
    assert waiting.take_due(now=0) is None
    assert waiting.take() is None


def test_each_waits_from_its_own_failure_on() -> None:
    waiting = waiting_deletions()
    waiting.failed("a", QUICKLY, now=100)
    waiting.failed("b", QUICKLY, now=110)
    assert waiting.seconds_to_next(now=129) == 1
    assert waiting.take_due(now=129) is None
    assert waiting.take_due(now=130) == "a"
    assert waiting.take_due(now=130) is None
    waiting.failed("a", QUICKLY, now=131)
    assert waiting.take_due(now=200) == "b"
    assert waiting.take_due(now=200) == "a"
    assert len(waiting) == 0


def test_one_that_took_long_to_fail_keeps_all_waiting() -> None:
    waiting = waiting_deletions()
    waiting.failed("a", QUICKLY, now=100)
    waiting.failed("b", SLOW, now=125)
    assert waiting.is_paused(now=154)
    assert waiting.take_due(now=154) is None
    assert waiting.seconds_to_next(now=154) == 1
    assert not waiting.is_paused(now=155)
    assert waiting.take_due(now=155) == "a"


def test_one_that_was_not_tried_waits_as_others_do() -> None:
    waiting = waiting_deletions()
    waiting.failed("a", SLOW, now=100)
    waiting.postpone("b", now=120)
    assert waiting.take_due(now=130) == "a"
    assert waiting.seconds_to_next(now=130) == 20


def test_one_that_is_done_waits_no_more() -> None:
    waiting = waiting_deletions()
    waiting.failed("a", QUICKLY, now=0)
    waiting.forget("a")
    waiting.forget("never failed")
    assert waiting.take_due(now=100) is None


def test_at_the_end_none_is_waited_for() -> None:
    waiting = waiting_deletions()
    waiting.failed("a", SLOW, now=0)
    waiting.failed("b", QUICKLY, now=0)
    assert [waiting.take(), waiting.take(), waiting.take()] == ["a", "b", None]
