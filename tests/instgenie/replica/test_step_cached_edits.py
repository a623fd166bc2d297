"""Edits with a step cache on a replica: what they compute, and when they tell of it."""

from __future__ import annotations

from dataclasses import replace

from instgenie.checkpoint import Checkpoint
from instgenie.orders import StepReport
from tests.instgenie.batches import Rider
from tests.instgenie.replica.rig import a_rig, levels_between, opened


async def test_a_step_cache_takes_fewer_passes_and_reports_where_it_lands(builtin_kind: Checkpoint) -> None:
    """Beside the lane that records its template it lands on every step, and the picture is the same."""
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
        assert landings == {"cold": list(range(10)), "hit": [0, 1, 2, 5, 8, 9]}
        assert len(rig.forward.calls) == 5
        assert levels_between(images[0], opened(images[1].image)) <= 1
