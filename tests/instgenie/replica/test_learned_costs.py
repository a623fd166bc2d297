"""What a replica says that its steps take."""

from __future__ import annotations

import asyncio

import pytest

from instgenie.balancer.step_costs import StepCosts
from instgenie.checkpoint import Checkpoint
from instgenie.edit_cost import OVERHEAD_TOKENS
from instgenie.pipeline.cost import BlockFit, CostModel, LoadFit, SegmentShape
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.replica.order_request import to_request
from instgenie.sched.limits import BatchLimits
from tests.instgenie.replica.rig import a_rig, an_order, run

FIT = BlockFit(2.0, 0.5, 0.01, 0.1, 1.0, 9)


def a_model(checkpoint: Checkpoint) -> CostModel:
    """Costs of blocks that are all alike."""
    return CostModel(["single"] * checkpoint.forward.num_blocks, {"single": FIT}, FIT, {"host": LoadFit(0.5, 1e-6)})


def test_costs_are_the_calibrated_models_where_there_is_one(builtin_kind: Checkpoint) -> None:
    async def test() -> None:
        async with a_rig(builtin_kind) as rig:
            guessed = rig.replica.costs
            assert set(guessed.loads) == {"host", "disk", "object"}
            model = a_model(builtin_kind)
            rig.editor.plan_steps(StepPlanner(model))
            assert rig.replica.costs == StepCosts.from_cost_model(model)
            outcome = await rig.replica.edit(an_order(), lambda _: None)
            told = rig.replica.costs
            # The picture is pasted and made a file of elsewhere, which counts as decoding to the caller alone.
            assert 0 < told.edge_seconds <= (outcome.timings.encode_ms + outcome.timings.decode_ms) / 1000
            assert set(told.loads) == {"host"}

    run(test)


def test_calibrated_costs_are_corrected_by_what_steps_took(builtin_kind: Checkpoint) -> None:
    """But not by those that record a template, whose records take time, too."""

    async def test() -> None:
        async with a_rig(builtin_kind) as rig:
            model = a_model(builtin_kind)
            rig.editor.plan_steps(StepPlanner(model))
            await rig.replica.edit(an_order(steps=4), lambda _: None)
            told = rig.replica.costs
            assert told == StepCosts.from_cost_model(model, told.edge_seconds)
            outcome = await rig.replica.edit(an_order(steps=4), lambda _: None)
            assert outcome.timings.cache == "hit"
            told, calibrated = rig.replica.costs, StepCosts.from_cost_model(model)
            factor = told.masked.row / calibrated.masked.row
            assert factor != 1
            assert told.full.row == pytest.approx(factor * calibrated.full.row)

    run(test)


def test_without_a_model_an_edit_costs_what_the_last_ones_took(builtin_kind: Checkpoint) -> None:
    """Text is counted, and so is what a step takes whatever it computes: the sum is the time that was observed."""

    async def test() -> None:
        async with a_rig(builtin_kind) as rig:
            replica = rig.replica
            outcome = await replica.edit(an_order(cache="off", guidance=1.0, steps=4), lambda _: None)
            costs, card, timings = replica.costs, replica.model, outcome.timings
            shape = SegmentShape(card.text_tokens, 64, 64)
            assert costs.base_seconds == pytest.approx(OVERHEAD_TOKENS * costs.masked.row)
            assert costs.edge_seconds == 0
            predicted = 4 * (costs.base_seconds + costs.segment_seconds(shape))
            longest = (timings.encode_ms + timings.denoise_ms + timings.decode_ms) / 1000
            assert timings.denoise_ms / 1000 < predicted <= longest

    run(test)


def test_the_card_says_what_records_of_a_step_take_and_how_large_batches_are(builtin_kind: Checkpoint) -> None:
    async def test() -> None:
        for codec in ("raw", "int8"):
            async with a_rig(builtin_kind, limits=BatchLimits(edits=3, rows=500), codec=codec) as rig:
                await rig.replica.edit(an_order(), lambda _: None)
                key = rig.editor.prepare(to_request(an_order())).key
                assert (await rig.replica.held([key]))[key].num_bytes == 4 * rig.replica.model.step_bytes
                assert (rig.replica.model.batch_edits, rig.replica.model.batch_tokens) == (3, 500)
                assert rig.replica.model.text_tokens == len(builtin_kind.prompts.encode(["an edit"])[0].states)

    run(test)


def test_a_step_that_hangs_is_seen(builtin_kind: Checkpoint) -> None:
    """The loop answers, and says for how long the device has been at it."""

    async def test() -> None:
        async with a_rig(builtin_kind) as rig:
            await rig.until(lambda stats: stats.step_age_seconds == 0)
            gate = rig.hold_at(1)
            edit = asyncio.create_task(rig.replica.edit(an_order(), lambda _: None))
            await gate.reached()
            first = await rig.replica.stats()
            assert first.step_age_seconds > 0

            later = await rig.replica.stats()
            while later.step_age_seconds < first.step_age_seconds + 0.05:
                later = await rig.replica.stats()
            assert (later.steps, later.running) == (first.steps, 1)
            gate.open()
            await edit
            await rig.until(lambda stats: stats.step_age_seconds == 0)

    run(test)
