"""Which jobs go: the old ones, then the oldest beyond the budget, never an unfinished one, and no more than needed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from instgenie_server.jobs.job_store import KeptJob
from instgenie_server.jobs.retention import to_drop
from instgenie_server.settings import RetentionSettings

NOW = 1000.0
SIZES_BYTES = {"a": 1, "b": 10, "c": 100, "d": 1000}

jobs_ = st.lists(
    st.tuples(st.none() | st.floats(0, NOW), st.frozensets(st.sampled_from("abcde"), max_size=3)), max_size=12
).map(lambda pairs: [KeptJob(f"j{number}", *pair) for number, pair in enumerate(pairs)])
budgets = st.builds(
    RetentionSettings, age_seconds=st.floats(1, 1000), bytes=st.integers(0, 1200), jobs=st.integers(0, 12)
)


def stored_bytes(jobs: list[KeptJob]) -> int:
    return sum(SIZES_BYTES.get(digest, 0) for digest in {digest for job in jobs for digest in job.files})


@given(jobs_, budgets)
def test_properties(jobs: list[KeptJob], settings: RetentionSettings) -> None:
    dropped = to_drop(jobs, SIZES_BYTES, settings, NOW)
    by_id = {job.id: job for job in jobs}
    gone = [by_id[job_id] for job_id in dropped]
    kept = [job for job in jobs if job.id not in dropped]
    assert len(set(dropped)) == len(dropped)
    gone_at = [job.finished_at for job in gone if job.finished_at is not None]
    kept_at = [job.finished_at for job in kept if job.finished_at is not None]
    assert len(gone_at) == len(gone)  # never an unfinished one
    assert gone_at == sorted(gone_at)
    assert max(gone_at, default=0) <= min(kept_at, default=NOW)  # older ones first
    oldest_allowed = NOW - settings.age_seconds
    assert all(finished_at >= oldest_allowed for finished_at in kept_at)
    assert len(kept_at) <= settings.jobs
    if kept_at:
        assert stored_bytes(kept) <= settings.bytes
    if gone and gone_at[-1] >= oldest_allowed:  # no more than needed: without the last one it would be too much
        assert stored_bytes([*kept, gone[-1]]) > settings.bytes or len(kept_at) == settings.jobs


@given(jobs_, budgets)
def test_a_second_look_drops_nothing(jobs: list[KeptJob], settings: RetentionSettings) -> None:
    dropped = to_drop(jobs, SIZES_BYTES, settings, NOW)
    kept = [job for job in jobs if job.id not in dropped]
    assert to_drop(kept, SIZES_BYTES, settings, NOW) == []


def test_shared_files_count_once_and_are_freed_with_the_last_job() -> None:
    jobs = [KeptJob("first", 1.0, frozenset("da")), KeptJob("second", 2.0, frozenset("db"))]
    settings = RetentionSettings(age_seconds=NOW, bytes=1011)
    assert to_drop(jobs, SIZES_BYTES, settings, NOW) == []
    settings = RetentionSettings(age_seconds=NOW, bytes=1010)
    assert to_drop(jobs, SIZES_BYTES, settings, NOW) == ["first"]
    settings = RetentionSettings(age_seconds=NOW, bytes=1009)
    assert to_drop(jobs, SIZES_BYTES, settings, NOW) == ["first", "second"]
    jobs[1] = KeptJob("second", None, frozenset("db"))
    assert to_drop(jobs, SIZES_BYTES, settings, NOW) == ["first"]
