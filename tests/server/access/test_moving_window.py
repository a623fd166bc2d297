"""Hits in a moving window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.access.moving_window import MovingWindow


def test_limit_is_by_key() -> None:
    window = MovingWindow(2, 60)
    assert [window.hit("a", 0), window.hit("a", 10), window.hit("a", 20)] == [0, 0, 40]
    assert window.hit("b", 20) == 0
    assert window.hit("a", 60) == 0
    assert window.hit("a", 60) == 10


def test_asking_does_not_count() -> None:
    window = MovingWindow(1, 60)
    assert [window.wait_seconds("a", 0) for _ in range(3)] == [0, 0, 0]
    assert window.hit("a", 0) == 0
    assert window.wait_seconds("a", 1) == 59


def test_keys_without_hits_are_forgotten() -> None:
    window = MovingWindow(5, 60)
    for second in range(1000):
        window.hit(f"key{second}", second)
    assert len(window) <= 61


gaps = st.lists(st.integers(0, 30), max_size=60)


@given(limit=st.integers(1, 5), gaps=gaps)
def test_no_stretch_has_more_hits_than_the_limit(limit: int, gaps: list[int]) -> None:
    window, now, let_through = MovingWindow(limit, 60), 0, []
    for gap in gaps:
        now += gap
        if window.hit("a", now) == 0:
            let_through.append(now)
    for start in let_through:
        assert sum(start <= time < start + 60 for time in let_through) <= limit


@given(limit=st.integers(1, 5), gaps=gaps)
def test_hit_is_let_through_after_the_wait_and_not_before(limit: int, gaps: list[int]) -> None:
    window, now = MovingWindow(limit, 60), 0
    for gap in gaps:
        now += gap
        wait = window.hit("a", now)
        if wait > 0:
            assert window.wait_seconds("a", now + wait - 1) == 1
            assert window.wait_seconds("a", now + wait) == 0
