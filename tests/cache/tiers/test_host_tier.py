"""The host tier's books: pages are never shared, pinned memory never changes, figures add up."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from instgenie_cache.policies import GdsfPolicy, LruPolicy
from instgenie_cache.records.slab import Slab
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.host_tier import HostTier, Pin, Reservation, StepKey
from instgenie_cache.tiers.pages import Extent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd is of Linux")
PAGE = mmap.PAGESIZE
PAGES = 8


@pytest.fixture
def tier() -> Iterator[HostTier]:
    arena = Arena.create(PAGES * PAGE, PAGE)
    yield HostTier(arena, LruPolicy())
    arena.close()


def key(step: int, template: str = "t") -> StepKey:
    """A step's key."""
    return StepKey(template, step)


def content(slab: Slab) -> bytes:
    """All bytes of a slab."""
    return bytes(slab.read(0, slab.num_bytes))


def publish(tier: HostTier, step: StepKey, pages: int, fill: int = 0) -> Reservation:
    """Reserve, fill and publish a step of whole pages."""
    reservation = tier.reserve(step, pages * PAGE, 1.0)
    assert reservation is not None
    reservation.slab.write(0, bytes([fill]) * (pages * PAGE))
    tier.publish(step)
    return reservation


def test_step_is_found_once_published(tier: HostTier) -> None:
    reservation = tier.reserve(key(0), PAGE + 1, 1.0)
    assert reservation is not None
    assert reservation.extents == (Extent(0, PAGE + 1),)
    assert key(0) not in tier
    assert (tier.get(key(0)), tier.peek(key(0)), tier.extents(key(0)), tier.pin(key(0))) == (None,) * 4
    assert not tier.discard(key(0))
    assert (tier.used_bytes, tier.evictable_bytes, tier.steps("t")) == (2 * PAGE, 0, ())
    reservation.slab.write(PAGE, b"x")
    tier.publish(key(0))
    assert key(0) in tier
    slab = tier.get(key(0))
    assert slab is not None
    assert content(slab)[PAGE:] == b"x"
    assert tier.extents(key(0)) == reservation.extents
    assert (tier.used_bytes, tier.evictable_bytes, tier.steps("t"), len(tier)) == (2 * PAGE, 2 * PAGE, (0,), 1)


def test_cancelled_reservation_gives_its_pages_back(tier: HostTier) -> None:
    tier.reserve(key(0), PAGES * PAGE, 1.0)
    tier.cancel(key(0))
    assert tier.free_bytes == tier.largest_free_bytes == PAGES * PAGE
    assert tier.reserve(key(0), PAGES * PAGE, 1.0) is not None


def test_step_that_is_there_cannot_be_reserved(tier: HostTier) -> None:
    tier.reserve(key(0), PAGE, 1.0)
    with pytest.raises(AssertionError, match="reserved already"):
        tier.reserve(key(0), PAGE, 1.0)
    tier.publish(key(0))
    with pytest.raises(AssertionError, match="there already"):
        tier.reserve(key(0), PAGE, 1.0)


def test_what_the_policy_names_first_is_evicted_and_no_more_than_needed(tier: HostTier) -> None:
    for step in range(4):
        publish(tier, key(step), 2)
    tier.get(key(0))
    reservation = tier.reserve(key(4), 3 * PAGE, 1.0)
    assert reservation is not None
    assert reservation.evicted == (key(1), key(2))
    assert tier.steps("t") == (0, 3)
    assert (tier.evictions, tier.free_bytes) == (2, PAGE)


def test_looking_and_pinning_are_no_use_of_a_step(tier: HostTier) -> None:
    for step in range(4):
        publish(tier, key(step), 2)
    assert key(0) in tier
    tier.peek(key(0))
    tier.extents(key(0))
    pin = tier.pin(key(0))
    assert pin is not None
    pin.release()
    assert publish(tier, key(4), 1).evicted == (key(0),)


def test_pinned_and_reserved_steps_are_not_evicted(tier: HostTier) -> None:
    tier.reserve(key(0), 2 * PAGE, 1.0)
    publish(tier, key(1), 2)
    publish(tier, key(2), 4)
    pins = [tier.pin(key(1)), tier.pin(key(1))]
    assert tier.evictable_bytes == 4 * PAGE
    assert tier.reserve(key(3), 5 * PAGE, 1.0) is None
    assert tier.steps("t") == (1, 2)  # nothing was evicted for what does not fit
    for pin in pins:
        assert tier.evictable_bytes == 4 * PAGE
        assert pin is not None
        pin.release()
        pin.release()
    assert tier.evictable_bytes == 6 * PAGE
    reservation = tier.reserve(key(3), 5 * PAGE, 1.0)
    assert reservation is not None
    assert reservation.evicted == (key(1), key(2))


def test_next_one_goes_in_place_of_a_pinned_step(tier: HostTier) -> None:
    for step in range(4):
        publish(tier, key(step), 2)
    pin = tier.pin(key(0))
    assert pin is not None
    assert publish(tier, key(4), 3).evicted == (key(1), key(2))
    assert key(0) in tier
    pin.release()
    assert publish(tier, key(5), 2).evicted == (key(0),)


def test_discarded_step_stays_for_those_who_pinned_it(tier: HostTier) -> None:
    old = publish(tier, key(0), 3, fill=1)
    first, second = tier.pin(key(0)), tier.pin(key(0))
    assert first is not None
    assert second is not None
    assert tier.discard(key(0))
    assert not tier.discard(key(0))
    assert tier.pin(key(0)) is None
    publish(tier, key(0), 3, fill=2)
    assert tier.reserve(key(1), 6 * PAGE, 1.0) is None
    assert (first.key, first.extents, content(first.slab)) == (key(0), old.extents, b"\1" * (3 * PAGE))
    first.release()
    first.release()
    assert tier.used_bytes == 6 * PAGE
    second.release()
    assert (tier.used_bytes, tier.evictable_bytes, tier.evictions) == (3 * PAGE, 3 * PAGE, 0)
    found = tier.get(key(0))
    assert found is not None
    assert content(found) == b"\2" * (3 * PAGE)


def test_cost_is_that_of_the_reservation_unless_publishing_knows_better() -> None:
    arena = Arena.create(PAGES * PAGE, PAGE)
    tier = HostTier(arena, GdsfPolicy())
    for step, reserved_ms, published_ms in ((0, 2.0, None), (1, 9.0, 1.0), (2, 1.0, 9.0)):
        tier.reserve(key(step), 2 * PAGE, reserved_ms)
        tier.publish(key(step), published_ms)
    reservation = tier.reserve(key(3), PAGES * PAGE, 1.0)
    assert reservation is not None
    assert reservation.evicted == (key(1), key(0), key(2))
    arena.close()


def test_steps_of_templates_are_kept_apart(tier: HostTier) -> None:
    for step in (3, 1, 2):
        publish(tier, key(step, "a"), 1)
    publish(tier, key(1, "b"), 1)
    tier.discard(key(1, "a"))
    assert (tier.steps("a"), tier.steps("b"), tier.steps("c")) == ((2, 3), (1,), ())


class HostTierMachine(RuleBasedStateMachine):
    """A tier against lists and dictionaries: what was written where, who reads it, who was used last."""

    KEYS = st.builds(StepKey, st.sampled_from("ab"), st.integers(0, 2))
    SIZES = st.sampled_from([4, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE - 1, 3 * PAGE, 4 * PAGE])  # so that some have to go

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena.create(PAGES * PAGE, PAGE)
        self.tier = HostTier(self.arena, LruPolicy())
        self.reserved: dict[StepKey, tuple[Reservation, bytes]] = {}
        self.published: dict[StepKey, bytes] = {}  # least recently used first
        self.pins: list[tuple[Pin, bytes]] = []
        self.evictions = self.written = 0

    def teardown(self) -> None:
        self.arena.close()

    def pinned(self) -> set[StepKey]:
        """Published steps that are pinned in this version; contents are never the same."""
        return {pin.key for pin, data in self.pins if self.published.get(pin.key) == data}

    def used_pages(self) -> int:
        """Of everything that must stay where it is, counted once, and of everything else."""
        contents = {data for _, data in self.pins} | set(self.published.values())
        contents |= {data for _, data in self.reserved.values()}
        return sum(map(pages, contents))

    @rule(key=KEYS, num_bytes=SIZES)
    def reserve(self, key: StepKey, num_bytes: int) -> None:
        if key in self.published or key in self.reserved:
            return
        self.written += 1
        data = (self.written.to_bytes(4, "little") * (num_bytes // 4 + 1))[:num_bytes]
        missing = pages(data) + self.used_pages() - PAGES
        victims = []
        for candidate in self.published:
            if missing > 0 and candidate not in self.pinned():
                victims.append(candidate)
                missing -= pages(self.published[candidate])
        reservation = self.tier.reserve(key, num_bytes, 1.0)
        if missing > 0:
            assert reservation is None
            return
        assert reservation is not None
        assert list(reservation.evicted) == victims
        assert reservation.slab.num_bytes == num_bytes
        for victim in victims:
            del self.published[victim]
        self.evictions += len(victims)
        reservation.slab.write(0, data)
        self.reserved[key] = (reservation, data)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data(), is_filled=st.booleans())
    def finish(self, data: st.DataObject, is_filled: bool) -> None:
        self._finish(data.draw(st.sampled_from(sorted(self.reserved))), is_filled)

    @rule(key=KEYS, num_bytes=SIZES)
    def fill(self, key: StepKey, num_bytes: int) -> None:
        """A step from beginning to end: by chance alone few come to be published."""
        self.reserve(key, num_bytes)
        if key in self.reserved:
            self._finish(key, is_filled=True)

    def _finish(self, key: StepKey, is_filled: bool) -> None:
        _, content = self.reserved.pop(key)
        if is_filled:
            self.published[key] = content
            self.tier.publish(key)
        else:
            self.tier.cancel(key)

    @rule(key=KEYS)
    def get(self, key: StepKey) -> None:
        slab = self.tier.get(key)
        assert (slab is None) == (key not in self.published)
        if slab is not None:
            self.published[key] = self.published.pop(key)

    @rule(key=KEYS)
    def pin(self, key: StepKey) -> None:
        pin = self.tier.pin(key)
        assert (pin is None) == (key not in self.published)
        if pin is not None:
            self.pins.append((pin, self.published[key]))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        pin, _ = self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))
        pin.release()

    @rule(key=KEYS)
    def discard(self, key: StepKey) -> None:
        assert self.tier.discard(key) == (self.published.pop(key, None) is not None)

    @invariant()
    def nothing_that_is_held_has_changed(self) -> None:
        for pin, data in self.pins:
            assert content(pin.slab) == data
        for key, data in self.published.items():
            slab = self.tier.peek(key)
            assert slab is not None
            assert content(slab) == data
        for reservation, data in self.reserved.values():
            assert content(reservation.slab) == data

    @invariant()
    def the_books_add_up(self) -> None:
        assert self.tier.total_bytes == PAGES * PAGE
        assert self.tier.used_bytes == self.used_pages() * PAGE
        assert self.tier.free_bytes == (PAGES - self.used_pages()) * PAGE
        evictable = self.published.keys() - self.pinned()
        assert self.tier.evictable_bytes == sum(pages(self.published[key]) for key in evictable) * PAGE
        assert self.tier.evictions == self.evictions
        assert len(self.tier) == len(self.published)
        for template in "ab":
            assert self.tier.steps(template) == tuple(sorted(k.step for k in self.published if k.template == template))


def pages(data: bytes) -> int:
    """Pages that so much content takes."""
    return -(-len(data) // PAGE)


TestHostTierMachine = HostTierMachine.TestCase
TestHostTierMachine.settings = settings(deadline=None, max_examples=100, stateful_step_count=50)
