"""Credit: in order, within the limits, given back by whom it was taken."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from instgenie_cache.client.credit_gate import CreditGate

LIMIT_BYTES, LIMIT_COUNT = 100, 3


def taker(told: list[tuple[str, bool]], name: str) -> Callable[[bool], None]:
    return lambda is_granted: told.append((name, is_granted))


def test_passes_while_there_is_credit_then_in_order() -> None:
    gate, told = CreditGate(LIMIT_BYTES, LIMIT_COUNT), list[tuple[str, bool]]()
    for name, num_bytes in (("a", 60), ("b", 40), ("c", 50), ("d", 1)):
        gate.take(num_bytes, taker(told, name))
    assert told == [("a", True), ("b", True)]  # d would fit once b is answered, but c was first
    gate.give(40)
    assert len(told) == 2
    gate.give(60)
    assert told[2:] == [("c", True), ("d", True)]


def test_one_that_is_too_large_passes_alone() -> None:
    gate, told = CreditGate(LIMIT_BYTES, LIMIT_COUNT), list[tuple[str, bool]]()
    for name, num_bytes in (("a", 500), ("b", 1), ("c", 500)):
        gate.take(num_bytes, taker(told, name))
    assert told == [("a", True)]
    gate.give(500)
    assert told == [("a", True), ("b", True)]
    gate.give(1)
    assert told == [("a", True), ("b", True), ("c", True)]


def test_count_is_limited_too() -> None:
    gate, told = CreditGate(LIMIT_BYTES, LIMIT_COUNT), list[tuple[str, bool]]()
    for name in "abcd":
        gate.take(1, taker(told, name))
    assert len(told) == LIMIT_COUNT
    gate.give(1)
    assert len(told) == LIMIT_COUNT + 1


def test_who_no_longer_waits_lets_those_behind_pass() -> None:
    gate, told = CreditGate(LIMIT_BYTES, LIMIT_COUNT), list[tuple[str, bool]]()
    gate.take(60, taker(told, "a"))
    large = gate.take(90, taker(told, "b"))
    gate.take(40, taker(told, "c"))
    assert gate.cancel(large)
    assert told == [("a", True), ("c", True)]
    assert not gate.cancel(large)


def test_closed_gate_refuses_everyone() -> None:
    gate, told = CreditGate(LIMIT_BYTES, LIMIT_COUNT), list[tuple[str, bool]]()
    gate.take(100, taker(told, "a"))
    gate.take(1, taker(told, "b"))
    gate.close()
    gate.take(1, taker(told, "c"))
    gate.give(100)
    assert told == [("a", True), ("b", False), ("c", False)]


@given(st.lists(st.integers(1, 150) | st.none(), max_size=60))
def test_never_more_than_the_limits_and_everyone_passes_in_the_end(script: list[int | None]) -> None:
    """None is an answer to the one that passed first."""
    gate, passed, asked = CreditGate(LIMIT_BYTES, LIMIT_COUNT), list[int](), list[int]()
    unanswered: list[int] = []

    def take(num_bytes: int) -> None:
        def granted(is_granted: bool) -> None:
            assert is_granted
            passed.append(num_bytes)
            unanswered.append(num_bytes)

        asked.append(num_bytes)
        gate.take(num_bytes, granted)

    for num_bytes in script:
        if num_bytes is not None:
            take(num_bytes)
        elif unanswered:
            gate.give(unanswered.pop(0))
        assert gate.used_bytes == sum(unanswered)
        assert len(unanswered) <= LIMIT_COUNT
        assert gate.used_bytes <= LIMIT_BYTES or len(unanswered) == 1
    while unanswered:
        gate.give(unanswered.pop(0))
    assert passed == asked
