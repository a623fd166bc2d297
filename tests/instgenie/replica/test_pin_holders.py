"""Pins that front ends share."""

from __future__ import annotations

from instgenie.replica.pin_holders import PinHolders


def test_a_key_stays_pinned_until_its_last_holder_lets_it_go() -> None:
    holders = PinHolders()
    holders.pin("ann", ["x", "y"])
    holders.pin("bob", ["y", "z"])
    assert len(holders) == 4
    assert holders.unpin("ann", ["x", "y"]) == {"x"}
    assert holders.leave("bob") == {"y", "z"}
    assert holders.leave("bob") == set()
    assert len(holders) == 0


def test_keys_that_nobody_pinned_may_be_unpinned() -> None:
    assert PinHolders().unpin("ann", ["x"]) == {"x"}


def test_what_is_pinned_again_adds_nothing() -> None:
    holders = PinHolders()
    holders.pin("ann", ["x", "y"])
    assert holders.more("ann", ["y", "z", "z"]) == 1
    assert holders.more("bob", ["y", "z"]) == 2


def test_forgotten_keys_are_nobodys() -> None:
    holders = PinHolders()
    holders.pin("ann", ["x", "y"])
    holders.forget(["x"])
    assert holders.leave("ann") == {"y"}
