"""Names of jobs sort by time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.jobs.job_id import RANDOM_BITS, job_id, new_job_id

times = st.integers(0, 2**54).map(lambda microseconds: microseconds / 1e6)
randomness = st.integers(0, 2**RANDOM_BITS - 1)


@given(times, randomness, times, randomness)
def test_names_sort_by_time(first: float, first_random: int, second: float, second_random: int) -> None:
    if round(first * 1e6) < round(second * 1e6):
        assert job_id(first, first_random) < job_id(second, second_random)


@given(times, randomness)
def test_form(now: float, random: int) -> None:
    name = job_id(now, random)
    assert name.startswith("edit-")
    assert len(name) == 5 + 26
    assert name.isascii()
    assert name == name.lower()


def test_names_differ() -> None:
    assert len({new_job_id(1e9) for _ in range(1000)}) == 1000
