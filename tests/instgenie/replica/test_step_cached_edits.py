"""Edits with a step cache on a replica: what they compute, and when they tell of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.orders import StepReport
from tests.instgenie.batches import Rider
from tests.instgenie.edits import an_editor
from tests.instgenie.replica.rig import a_rig, levels_between, opened


async def test_a_step_cache_takes_fewer_passes_and_reports_where_it_lands(builtin_kind: Checkpoint) -> None:
    """With the lane that records its template as with records, and the picture is the same."""
    rider = replace(Rider(), steps=9, step_cache=3)  # computes 0, 1, 2, 5 and 8
    async with a_rig(builtin_kind) as rig:
        landings: dict[str, list[int]] = {}
        images = []
        for cache in ("cold", "hit"):
            reports: list[StepReport] = []
            rig.forward.calls.clear()
            outcome = await rig.edit(rider, reports.append, previews=2)
            assert (outcome.timings.cache, outcome.timings.steps, outcome.timings.extrapolated_steps) == (cache, 9, 4)
            landings[cache] = [report.step for report in reports]
            assert len([report for report in reports if report.preview]) == 2
            images.append(outcome)
        assert landings["cold"] == landings["hit"] == [0, 1, 2, 5, 8, 9]
        assert len(rig.forward.calls) == 5
        assert levels_between(images[0], opened(images[1].image)) <= 1


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
async def test_who_joins_a_lane_late_goes_on_as_with_records(kept_bytes: int, builtin_kind: Checkpoint) -> None:
    """Whether the lane keeps its steps, and is read from after its end, or not, and the edit waits for that."""
    rider = replace(Rider(), steps=12, step_cache=3)  # computes 0, 1, 2, 5, 8 and 11
    late = replace(rider, seed=1)
    async with a_rig(builtin_kind, kept_bytes=kept_bytes) as rig:
        reports: list[StepReport] = []
        gate = rig.hold_at(3)
        first = rig.edit(rider)
        await gate.reached()
        second = rig.edit(late, reports.append)
        await rig.submitted(2)
        gate.open()
        outcomes = [await first, await second]
        assert [report.step for report in reports] == [0, 1, 2, 5, 8, 11, 12]
        assert (await rig.edit(late)).timings.cache == "hit"
        assert rig.recorded == 12  # no step of the template twice
    alone = an_editor(builtin_kind)
    for one, outcome in zip((rider, late), outcomes, strict=True):
        assert levels_between(outcome, alone.edit(one.request).picture) <= 1


async def test_a_lane_goes_on_when_its_edit_needed_few_of_its_steps(builtin_kind: Checkpoint) -> None:
    rider = replace(Rider(), steps=12, step_cache=10)  # computes 0, 1 and 2, and leaps to the end
    async with a_rig(builtin_kind) as rig:
        assert (await rig.edit(rider)).timings.cache == "cold"
        await rig.settled()
        assert (await rig.edit(rider)).timings.cache == "hit"
