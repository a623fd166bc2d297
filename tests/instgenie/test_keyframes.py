"""Which kept step serves which, and the note that says so."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instgenie.flow import MAX_STEPS
from instgenie.keyframes import Keyframes
from instgenie_cache import RecordFormatError
from instgenie_cache.records.manifest import MAX_NOTE_BYTES


@st.composite
def keyframes(draw: st.DrawFn, most: int = 60) -> Keyframes:
    steps = draw(st.integers(1, most))
    others = draw(st.sets(st.integers(1, steps - 1))) if steps > 1 else set()
    return Keyframes((0, *sorted(others)), steps)


def test_steps_between_two_that_were_kept() -> None:
    some = Keyframes((0, 3, 7, 8), 12)
    assert [some.row_of(step) for step in range(12)] == [0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3]


@given(keyframes())
def test_nearest_kept_step_serves_the_earlier_of_two(some: Keyframes) -> None:
    for step in range(some.steps):
        nearest = min(range(len(some.kept)), key=lambda row: (abs(some.kept[row] - step), row))
        assert some.row_of(step) == nearest


@given(keyframes())
def test_kept_steps_serve_themselves_and_rows_come_in_order(some: Keyframes) -> None:
    assert [some.row_of(step) for step in some.kept] == list(range(len(some.kept)))
    rows = [some.row_of(step) for step in range(some.steps)]
    assert rows == sorted(rows)
    assert rows[-1] == len(some.kept) - 1


@pytest.mark.parametrize("steps", [1, 2, 20, MAX_STEPS])
def test_where_every_step_was_kept_there_is_nothing_to_note(steps: int) -> None:
    every = Keyframes.every(steps)
    assert every.note == b""
    assert Keyframes.read(b"", steps) == every
    assert [every.row_of(step) for step in range(steps)] == list(range(steps))


@given(keyframes(MAX_STEPS))
def test_note_says_what_was_kept(some: Keyframes) -> None:
    assert Keyframes.read(some.note, some.steps) == some


def test_note_of_the_longest_schedule_is_not_too_long() -> None:
    assert 0 < len(Keyframes(tuple(range(MAX_STEPS - 1)), MAX_STEPS).note) <= MAX_NOTE_BYTES


@pytest.mark.parametrize(
    ("kept", "steps"),
    [((), 3), ((1, 2), 3), ((0, 3), 3), ((0, 1, 1), 3), ((0, 2, 1), 3), ((0, -1), 3), ((0,), 0)],
)
def test_steps_that_cannot_have_been_kept_are_refused(kept: tuple[int, ...], steps: int) -> None:
    with pytest.raises(ValueError, match="are not the kept ones"):
        Keyframes(kept, steps)


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        "kept",
        [],
        [1, 20],
        [1, 20, [0, 5], 0],
        [2, 20, [0, 5]],
        [1, 19, [0, 5]],
        [1, 20, []],
        [1, 20, [5]],
        [1, 20, [0, 20]],
        [1, 20, [0, 5, 3]],
        [1, 20, [0, 5.0]],
        [1, 20, [False, 5]],
        [1, 20, ["0"]],
        [1, 20, {0: 0}],
        [1, 20, None],
        [1, 20, 0],
        [1, 20, list(range(MAX_STEPS + 1))],
        {1: 1, 20: 2, 3: 3},
    ],
    ids=lambda content: repr(content)[:30],
)
def test_note_of_something_else_is_refused(content: object) -> None:
    with pytest.raises(RecordFormatError, match="a note that does not say which of 20 steps were kept"):
        Keyframes.read(msgpack.packb(content), 20)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=80))
def test_garbage_is_refused_or_is_a_note(garbage: bytes) -> None:
    try:
        found = Keyframes.read(garbage, 5)
    except RecordFormatError:
        return
    assert found.kept[0] == 0
    assert found.steps == 5
