"""The ladder of lengths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instgenie.models.buckets import bucket


def test_the_ladder() -> None:
    ladder = sorted({bucket(length) for length in range(513)})
    assert ladder == [*range(16, 257, 16), *range(288, 513, 32)]
    assert len({bucket(length) for length in range(129, 16385)}) == 56


@given(st.integers(0, 1 << 24))
def test_a_bucket_is_long_enough_and_not_much_longer(length: int) -> None:
    found = bucket(length)
    assert found >= max(length, 1)
    assert found % 16 == 0
    assert found - length < max(16, length / 8) or length == 0
    assert bucket(found) == found
    assert bucket(length + 1) >= found
