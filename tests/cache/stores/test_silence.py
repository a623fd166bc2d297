"""Tiers that do not answer are left alone for a while."""

from __future__ import annotations

from contextlib import suppress

import pytest

from instgenie_cache import CacheError
from instgenie_cache.stores.silence import Silence


@pytest.mark.parametrize(("took", "lasts"), [(0.9, False), (1.0, True), (30.0, True)])
def test_what_took_long_to_fail_is_not_tried_for_a_while(took: float, lasts: bool) -> None:
    now = 100.0
    silence = Silence(20.0, 1.0, lambda: now)
    assert not silence.lasts
    with suppress(CacheError), silence.watch():
        now += took
        raise CacheError("timed out")
    assert silence.lasts is lasts
    now += 19.9
    assert silence.lasts is lasts
    now += 0.1
    assert not silence.lasts


def test_what_succeeds_may_take_long() -> None:
    now = 100.0
    silence = Silence(20.0, 1.0, lambda: now)
    with silence.watch():
        now += 60.0
    assert not silence.lasts


def test_an_answer_ends_it() -> None:
    now = 100.0
    silence = Silence(20.0, 1.0, lambda: now)
    with suppress(CacheError), silence.watch():
        now += 2.0
        raise CacheError("timed out")
    with silence.watch():
        pass
    assert not silence.lasts
