"""Ends that wait for somebody: bounds, and what is told of those that had to go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instgenie.errors import ReplicaError
from instgenie.replica.kept_ends import KeptEnds
from instgenie.replica.messages import Body, decode_error


def body(num_bytes: int) -> Body:
    return Body({"end": "edit"}, (bytes(num_bytes),))


def test_an_end_is_kept_until_it_is_acknowledged() -> None:
    ends = KeptEnds(100, 10)
    end = ends.add("a", "digest", body(60), now=0)
    assert ends.get("a", now=10) is end
    ends.acknowledge("a")
    ends.acknowledge("a")
    assert (ends.get("a", now=10), ends.num_bytes, len(ends)) == (None, 0, 0)
    assert end.body == body(60)  # for others that it is on its way to


def test_the_oldest_goes_first_and_says_so() -> None:
    ends = KeptEnds(100, 10)
    first, second = ends.add("a", "", body(60), now=0), ends.add("b", "", body(60), now=1)
    assert ends.get("a", now=1) is None
    assert ends.get("b", now=1) is second
    error = decode_error(first.body.fields)
    assert isinstance(error, ReplicaError)
    assert str(error) == "the result of order a was dropped: more than 100 bytes of results waited"


def test_one_is_kept_whatever_its_size() -> None:
    ends = KeptEnds(100, 10)
    end = ends.add("a", "", body(1000), now=0)
    assert ends.get("a", now=0) is end


def test_time_is_up() -> None:
    ends = KeptEnds(100, 10)
    end = ends.add("a", "", body(1), now=0)
    assert ends.get("a", now=10.5) is None
    assert "nobody fetched it for 10 s" in str(decode_error(end.body.fields))


def test_number_is_bounded() -> None:
    ends = KeptEnds(100, 10, max_ends=2)
    for order in "abc":
        ends.add(order, "", body(0), now=0)
    assert [ends.get(order, now=0) is not None for order in "abc"] == [False, True, True]


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 80), st.sampled_from(["add", "acknowledge"]))))
def test_bytes_are_counted(events: list[tuple[str, int, str]]) -> None:
    ends = KeptEnds(100, 5)
    for now, (order, num_bytes, event) in enumerate(events):
        if event == "add":
            ends.add(order, "", body(num_bytes), now)
        else:
            ends.acknowledge(order)
        held = [end for order in "abcd" if (end := ends.get(order, now)) is not None]
        assert ends.num_bytes == sum(end.body.payload_bytes for end in held)
        assert ends.num_bytes <= 100
        assert len(ends) == len(held)
