"""Slabs: bytes across pieces as if they were one stretch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie_cache.records.slab import Slab


def slab_of(*lengths: int) -> Slab:
    """A slab of pieces of these lengths, whose bytes count up."""
    ends = list(itertools.accumulate(lengths))
    return Slab([np.arange(end - length, end, dtype=np.uint8) for end, length in zip(ends, lengths, strict=True)])


@settings(deadline=None, max_examples=200)
@given(st.data(), st.lists(st.integers(0, 9), max_size=6))
def test_pieces_read_and_write_like_one_stretch(data: st.DataObject, lengths: list[int]) -> None:
    slab = slab_of(*lengths)
    model = bytearray(range(sum(lengths)))
    assert slab.num_bytes == len(model)
    for _ in range(data.draw(st.integers(1, 5), "operations")):
        start = data.draw(st.integers(0, len(model)), "start")
        stop = data.draw(st.integers(start, len(model)), "stop")
        assert slab.read(start, stop - start) == model[start:stop]
        views = slab.views(start, stop - start)
        assert b"".join(view.tobytes() for view in views) == model[start:stop]
        content = data.draw(st.binary(min_size=stop - start, max_size=stop - start), "content")
        slab.write(start, data.draw(st.sampled_from([bytes, bytearray, memoryview]), "kind")(content))
        model[start:stop] = content
    assert slab.read(0, len(model)) == model


def test_read_within_a_piece_is_a_view_and_across_pieces_a_copy() -> None:
    slab = slab_of(4, 4)
    within, across = slab.read(5, 2), slab.read(3, 3)
    slab.write(0, bytes(8))
    assert within == bytes(2)
    assert across == bytes([3, 4, 5])


def test_views_share_the_memory() -> None:
    slab = slab_of(4, 4)
    for view in slab.views(2, 4):
        view[:] = 99
    assert bytes(slab.read(0, 8)) == bytes([0, 1, 99, 99, 99, 99, 6, 7])


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 9), (9, 0), (5, 4), (3, -1)])
def test_range_beyond_the_slab_is_refused(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match=rf"bytes {offset}\.\.{offset + length} of a slab of 8"):
        slab_of(4, 4).views(offset, length)


def test_write_beyond_the_slab_changes_nothing() -> None:
    slab = slab_of(4, 4)
    with pytest.raises(ValueError, match=r"bytes 6\.\.9 of a slab of 8"):
        slab.write(6, b"abc")
    assert slab.read(0, 8) == bytes(range(8))


def test_memory_that_is_read_only_stays_so() -> None:
    slab = Slab([np.frombuffer(b"abcd", np.uint8)])
    assert slab.read(0, 4).readonly
    with pytest.raises(ValueError, match="read-only"):
        slab.write(0, b"x")


def test_private_slab_is_one_piece() -> None:
    slab = Slab.private(10)
    slab.write(0, b"0123456789")
    view = slab.read(2, 6)
    slab.write(4, b"x")
    assert bytes(view) == b"23x567"
