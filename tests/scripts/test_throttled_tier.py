"""The tier that is as slow as a benchmark wants it to be, by a clock that a test holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.throttled_tier import ThrottledTier
from instgenie_cache import CacheError, RecordKey, TemplateSize
from instgenie_cache.records.slab import Slab
from tests.cache.small_stores import FakeTier, fill_template, read_template, tiered_store, values_of

SIZE = TemplateSize(steps=2, blocks=4, record_bytes=25_000 - 256)
STEP_BYTES = SIZE.step_bytes
SPEED = 1_000_000.0  # bytes a second; a turn is 2000
BURST = 0.004


class Clock:
    """Time that passes in sleeps, and where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0
        self.on_sleep: Callable[[], None] | None = None

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        if self.on_sleep is not None:
            on_sleep, self.on_sleep = self.on_sleep, None
            on_sleep()


class TakingTier(FakeTier):
    """A tier whose reads take a time of their own."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock, self.read_seconds = clock, 0.0

    def read_step(self, *arguments: Any, **options: Any) -> bool:
        self.clock.now += self.read_seconds
        return super().read_step(*arguments, **options)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def inner(clock: Clock) -> TakingTier:
    """Holds template `a`."""
    inner = TakingTier(clock)
    store = tiered_store(inner, pages=100)
    fill_template(store, "a", SIZE)
    store.close()
    return inner


@pytest.fixture
def tier(inner: TakingTier, clock: Clock) -> ThrottledTier:
    return ThrottledTier(inner, SPEED, clock=clock, sleep=clock.sleep)


def read_seconds(tier: ThrottledTier, clock: Clock, blocks: range | None = None) -> float:
    began = clock.now
    slab = Slab.private(SIZE.offset(SIZE.blocks if blocks is None else len(blocks)))
    assert tier.read_step("a", SIZE, 0, slab, blocks)
    return clock.now - began


def test_reads_take_as_long_as_their_bytes(tier: ThrottledTier, clock: Clock) -> None:
    total = sum(read_seconds(tier, clock) for _ in range(5))
    assert total == pytest.approx(5 * STEP_BYTES / SPEED, abs=1.01 * BURST)
    assert read_seconds(tier, clock, range(1, 3)) == pytest.approx(STEP_BYTES / 2 / SPEED)


def test_idle_tier_saves_up_no_more_than_a_burst(tier: ThrottledTier, clock: Clock) -> None:
    for _ in range(3):
        clock.now += 60
        assert read_seconds(tier, clock) == pytest.approx(STEP_BYTES / SPEED - BURST)


@pytest.mark.parametrize(("own_seconds", "expected"), [(0.01, STEP_BYTES / SPEED), (5.0, 5.0)])
def test_time_of_the_tier_behind_counts(
    tier: ThrottledTier, inner: TakingTier, clock: Clock, own_seconds: float, expected: float
) -> None:
    inner.read_seconds = own_seconds
    assert read_seconds(tier, clock) == pytest.approx(expected, abs=1.01 * BURST)


def test_readers_take_turns(tier: ThrottledTier, clock: Clock) -> None:
    """One that wants little does not wait for all that another one wants."""
    small: list[float] = []
    clock.on_sleep = lambda: small.append(read_seconds(tier, clock, range(1)))
    total = read_seconds(tier, clock)
    assert small == [pytest.approx(STEP_BYTES / 4 / SPEED, abs=2 * BURST)]
    assert total == pytest.approx(STEP_BYTES * 1.25 / SPEED, abs=2 * BURST)


def test_what_is_not_found_takes_no_time(tier: ThrottledTier, inner: TakingTier, clock: Clock) -> None:
    assert not tier.read_step("b", SIZE, 0, Slab.private(STEP_BYTES))
    inner.broken = CacheError("I/O error")
    with pytest.raises(CacheError, match="I/O error"):
        tier.read_step("a", SIZE, 0, Slab.private(STEP_BYTES))
    assert clock.now == 100.0


def test_store_over_it_is_as_any_other(tier: ThrottledTier, inner: TakingTier, clock: Clock) -> None:
    store = tiered_store(tier, pages=100)
    assert read_template(store, "a", SIZE) == values_of(SIZE)
    before = clock.now
    fill_template(store, "b", SIZE, first=9)
    store.flush()
    assert clock.now == before  # writes are not delayed
    assert inner.committed["b"].size == SIZE
    store.delete("a")
    store.flush()
    assert inner.committed.keys() == {"b"}
    assert RecordKey("a", 0, 0) not in inner.records
    store.close()
    assert inner.is_closed
