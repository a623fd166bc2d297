"""Pauses between attempts."""

from __future__ import annotations

import pytest

from instgenie_cache.client.backoff import Backoff

BACKOFF = Backoff(first_seconds=0.1, max_seconds=5.0, jitter_seconds=1.0)


def test_pauses_double_up_to_the_longest() -> None:
    pauses = [BACKOFF.pause_seconds(failures, 0.0) for failures in range(1, 9)]
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert BACKOFF.pause_seconds(10**6, 0.0) == 5.0


def test_chance_is_added() -> None:
    assert BACKOFF.pause_seconds(1, 0.5) == pytest.approx(0.6)
    assert BACKOFF.pause_seconds(100, 1.0) == pytest.approx(6.0)
