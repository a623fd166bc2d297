"""Where the records of a step lie in its memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instgenie_cache import CacheError, IncompleteTemplateError, TemplateSize
from instgenie_cache.records.record import HEADER_BYTES

SIZES = st.builds(TemplateSize, st.integers(0, 50), st.integers(0, 100), st.integers(0, 1 << 40))


def test_figures_of_a_template() -> None:
    size = TemplateSize(steps=20, blocks=3, record_bytes=1000)
    assert (size.records, size.num_bytes) == (60, 60_000)
    assert (size.stored_record_bytes, size.stride_bytes) == (1256, 1280)
    assert (size.step_bytes, size.stored_bytes) == (3840, 76_800)
    assert [size.offset(block) for block in range(3)] == [0, 1280, 2560]


@given(SIZES)
def test_records_are_aligned_and_do_not_overlap(size: TemplateSize) -> None:
    end = 0
    for block in range(size.blocks):
        assert size.offset(block) >= end
        assert size.offset(block) % 256 == 0
        end = size.offset(block) + HEADER_BYTES + size.record_bytes
    assert end <= size.step_bytes < end + 256
    assert size.stored_bytes == size.steps * size.step_bytes >= size.num_bytes


@given(SIZES, st.integers(-2, 60), st.integers(-2, 110))
def test_records_that_a_template_has(size: TemplateSize, step: int, block: int) -> None:
    assert size.has(step, block) == (step in range(size.steps) and block in range(size.blocks))


@given(SIZES, st.integers(-2, 60))
def test_template_of_some_of_the_steps(size: TemplateSize, steps: int) -> None:
    assert size.of_steps(None) == size
    if 1 <= steps <= size.steps:
        fewer = size.of_steps(steps)
        assert (fewer.steps, fewer.blocks, fewer.record_bytes) == (steps, size.blocks, size.record_bytes)
    else:
        with pytest.raises(CacheError, match=f"{steps} steps of a template of {size.steps}"):
            size.of_steps(steps)


def test_what_was_put_has_to_be_all_of_the_steps_and_nothing_else() -> None:
    size = TemplateSize(steps=2, blocks=2, record_bytes=1)
    size.check_whole([1, 0, 0, 1])
    with pytest.raises(IncompleteTemplateError, match="3 of 4 records"):
        size.check_whole([0, 0, 1])
    with pytest.raises(CacheError, match="a record of step 5 was put, the template is to have 2 steps"):
        size.check_whole([0, 0, 1, 1, 5, 2])
