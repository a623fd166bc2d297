"""Reports in the order of their steps, whenever previews are made."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from instgenie.orders import StepReport
from instgenie.replica.ordered_reports import OrderedReports


@given(st.sets(st.integers(0, 9)), st.randoms(use_true_random=False))
def test_reports_come_in_order_as_soon_as_they_can(shown: set[int], random: Random) -> None:
    told: list[StepReport] = []
    reports = OrderedReports(told.append)
    to_make: list[int] = []
    for step in range(10):
        reports.add(StepReport(step, 9), awaits_preview=step in shown)
        if step in shown:
            to_make.append(step)
        while to_make and random.random() < 0.5:
            made = random.choice(to_make)
            to_make.remove(made)
            reports.add_preview(made, b"%d" % made)
        first_held = min(to_make, default=step + 1)
        assert [report.step for report in told] == list(range(min(first_held, step + 1)))
    for step in to_make:
        reports.add_preview(step, None)
    assert [report.step for report in told] == list(range(10))
    for report in told:
        expected = b"%d" % report.step if report.step in shown and report.step not in to_make else None
        assert report.preview == expected
