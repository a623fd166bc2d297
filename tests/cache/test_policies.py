"""Who goes first: each policy against the plainest model of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_cache.eviction import EvictionPolicy, PolicyName
from instgenie_cache.policies import GdsfPolicy, LfuPolicy, LruPolicy, make_policy

NAMES: list[PolicyName] = ["lru", "lfu", "gdsf"]


@dataclass
class Known:
    """What a model remembers of an item."""

    num_bytes: int
    cost: float
    uses: int = 0
    last: int = 0
    priority: float = 0.0


@dataclass
class Model:
    """A policy by the book: it sorts everything whenever it is asked."""

    name: PolicyName
    known: dict[str, Known] = field(default_factory=dict)
    level: float = 0.0
    now: int = 0

    def touch(self, item: str) -> None:
        entry = self.known[item]
        self.now += 1
        entry.last = self.now
        entry.uses += 1
        entry.priority = {
            "lru": 0.0,
            "lfu": float(entry.uses),
            "gdsf": self.level + entry.uses * (entry.cost / entry.num_bytes),
        }[self.name]

    def remove(self, item: str, evicted: bool) -> None:
        entry = self.known.pop(item)
        if evicted:
            self.level = max(self.level, entry.priority)

    def ranked(self) -> list[str]:
        return sorted(self.known, key=lambda item: (self.known[item].priority, self.known[item].last))


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(NAMES),
    st.lists(
        st.tuples(
            st.sampled_from(["insert", "touch", "touch", "touch", "evict", "delete"]),
            st.sampled_from("abcdefgh"),
            st.integers(1, 4),
            st.sampled_from([0.0, 0.5, 3.0, 100.0]),
        ),
        max_size=120,
    ),
)
def test_order_is_that_of_the_model(name: PolicyName, operations: list[tuple[str, str, int, float]]) -> None:
    policy: EvictionPolicy[str] = make_policy(name)
    model = Model(name)
    for operation, item, num_bytes, cost in operations:
        if operation == "insert" and item not in model.known:
            model.known[item] = Known(num_bytes, cost)
            model.touch(item)
            policy.insert(item, num_bytes, cost)
        elif operation == "touch" and item in model.known:
            model.touch(item)
            policy.touch(item)
        elif operation in ("evict", "delete") and model.known:
            goes = model.ranked()[0] if operation == "evict" else item
            if goes in model.known:
                model.remove(goes, operation == "evict")
                policy.remove(goes, evicted=operation == "evict")
        expected = model.ranked()
        assert list(itertools.islice(policy.ranked(), 2)) == expected[:2]
        assert list(policy.ranked()) == expected  # the first look has changed nothing


def test_lru_forgets_how_often() -> None:
    policy = LruPolicy[str]()
    for item in "abc":
        policy.insert(item, 1, 1.0)
    for item in "aaab":
        policy.touch(item)
    assert list(policy.ranked()) == ["c", "a", "b"]


def test_lfu_counts_uses_and_goes_by_age_among_equals() -> None:
    policy = LfuPolicy[str]()
    for item in "abcd":
        policy.insert(item, 1, 1.0)
    for item in "bbca":
        policy.touch(item)
    assert list(policy.ranked()) == ["d", "c", "a", "b"]


def test_gdsf_keeps_what_is_dear_for_its_size() -> None:
    policy = GdsfPolicy[str]()
    policy.insert("large", 100, 50.0)
    policy.insert("cheap", 10, 1.0)
    policy.insert("dear", 10, 100.0)
    assert list(policy.ranked()) == ["cheap", "large", "dear"]


def test_gdsf_overtakes_what_was_popular_once() -> None:
    policy = GdsfPolicy[int]()
    policy.insert(-1, 1, 1.0)
    for _ in range(9):
        policy.touch(-1)
    goes = []
    for newcomer in range(20):
        policy.insert(newcomer, 1, 1.0)
        first = next(policy.ranked())
        policy.remove(first, evicted=True)
        goes.append(first)
    assert -1 in goes


def test_gdsf_does_not_age_by_deletions() -> None:
    policy = GdsfPolicy[str]()
    policy.insert("kept", 1, 10.0)
    policy.insert("gone", 1, 100.0)
    policy.remove("gone", evicted=False)
    policy.insert("cheap", 1, 1.0)
    assert list(policy.ranked()) == ["cheap", "kept"]


def test_gdsf_without_costs_is_lru() -> None:
    policy = GdsfPolicy[str]()
    for item in "abc":
        policy.insert(item, 7, 0.0)
    policy.touch("a")
    assert list(policy.ranked()) == ["b", "c", "a"]


class Looked:
    """An item that counts how often any of its kind is looked up."""

    times = 0

    def __hash__(self) -> int:
        Looked.times += 1
        return id(self)


@pytest.mark.parametrize("name", NAMES)
def test_asking_for_the_first_few_looks_at_few(name: PolicyName) -> None:
    policy: EvictionPolicy[Looked] = make_policy(name)
    items = [Looked() for _ in range(1000)]
    for item in items:
        policy.insert(item, 1, 1.0)
    for _ in range(5):
        for item in items:
            policy.touch(item)
    Looked.times = 0
    assert list(itertools.islice(policy.ranked(), 3)) == items[:3]
    assert Looked.times < 10


@pytest.mark.parametrize("make", [LfuPolicy[int], GdsfPolicy[int]])
def test_heap_stays_bounded(make: Callable[[], LfuPolicy[int] | GdsfPolicy[int]]) -> None:
    policy = make()
    for item in range(100):
        policy.insert(item, 1, 1.0)
    for use in range(5_000):
        policy.touch(50 + use % 50)
        assert len(policy._heap) <= 2 * 100 + 64
    for item in range(100):
        policy.remove(item, evicted=False)
    assert len(policy._heap) == 0


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_cost_that_cannot_be_ranked_is_refused(cost: float) -> None:
    with pytest.raises(AssertionError, match="cannot be ranked"):
        GdsfPolicy[str]().insert("a", 1, cost)


def test_policies_by_name() -> None:
    policies: list[EvictionPolicy[str]] = [make_policy(name) for name in NAMES]
    assert [type(policy) for policy in policies] == [LruPolicy, LfuPolicy, GdsfPolicy]
    with pytest.raises(ValueError, match="lru, lfu and gdsf, not 'fifo'"):
        make_policy("fifo")  # type: ignore[arg-type]
