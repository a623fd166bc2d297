"""What stands for the answer of a member that is late."""

from __future__ import annotations

from instgenie.orders import HeldTemplate
from instgenie_server.fleet.known_records import UNKNOWN, KnownRecords


def held(num_bytes: int) -> HeldTemplate:
    return HeldTemplate(num_bytes, 0)


def test_the_last_word_counts() -> None:
    known = KnownRecords()
    known.learn({"a": held(1), "b": held(2)})
    known.learn({"a": held(3)})
    assert known.held(["a", "b", "c"]) == {"a": held(3), "b": held(2), "c": UNKNOWN}
    known.forget(["a", "c"])
    assert known.held(["a", "b"]) == {"a": UNKNOWN, "b": held(2)}
    known.forget()
    assert known.held(["b"]) == {"b": UNKNOWN}


def test_the_longest_known_go_first() -> None:
    known = KnownRecords(max_keys=2)
    known.learn({"a": held(1), "b": held(2)})
    known.learn({"a": held(3)})
    known.learn({"c": held(4)})
    assert known.held("abc") == {"a": held(3), "b": UNKNOWN, "c": held(4)}
