"""Orders that run together: each gets the picture that it would get alone, whatever the others do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instgenie.checkpoint import Checkpoint
from instgenie.codecs import CodecName
from instgenie.orders import EditOutcome, StepReport
from instgenie.sched.limits import BatchLimits
from tests.instgenie.batches import Rider, riders
from tests.instgenie.edits import an_editor
from tests.instgenie.replica.rig import Rig, Task, a_rig, levels_between, order_of, run

LIMITS = st.builds(
    BatchLimits,
    edits=st.integers(1, 8),
    rows=st.sampled_from([1, 200, 4096]),
    encode_ahead=st.integers(1, 8),
    lane_every=st.integers(1, 3),
    joins=st.sampled_from(["step", "empty"]),
)


async def ride(rig: Rig, batch: Sequence[Rider]) -> list[EditOutcome | None]:
    """All of them; None for those that are cancelled on the way."""
    tasks: dict[int, Task] = {}
    begun = [asyncio.Event() for _ in batch]

    async def go(number: int) -> EditOutcome | None:
        rider = batch[number]
        others = [event for other, event in enumerate(begun) if batch[other].joins < rider.joins]
        for event in others:  # those that are to join before are in their first step, or further
            await event.wait()

        def report(step: StepReport) -> None:
            begun[number].set()
            if step.step == rider.leaves and step.step < step.steps:
                tasks[number].cancel()

        task = tasks[number] = asyncio.create_task(rig.replica.edit(order_of(rider), report))
        try:
            return await task
        except asyncio.CancelledError:
            return None

    return await asyncio.gather(*(go(number) for number in range(len(batch))))


@pytest.mark.parametrize(
    ("kind", "codec"), [("builtin_kind", "raw"), ("builtin_kind", "int8"), ("flux_fill_kind", "raw")]
)
@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(riders(), min_size=1, max_size=8), limits=LIMITS, keeps=st.booleans())
def test_each_order_gets_the_picture_that_it_gets_alone(
    kind: str, codec: CodecName, batch: list[Rider], limits: BatchLimits, keeps: bool, request: pytest.FixtureRequest
) -> None:
    checkpoint: Checkpoint = request.getfixturevalue(kind)
    warm = {(r.picture, r.steps, r.guidance) for r in batch if r.service == "records"}

    async def test() -> None:
        async with a_rig(checkpoint, limits=limits, kept_bytes=None if keeps else 0, codec=codec) as rig:
            for picture, steps, guidance in warm:
                await rig.warm(picture, steps=steps, guidance=guidance)
            outcomes = await ride(rig, batch)
            stats = await rig.settled()
            assert rig.store.is_idle
            finished = [outcome for outcome in outcomes if outcome is not None]
            assert stats.done >= len(finished)  # who leaves at a step may find the last one taken
            assert stats.done + stats.cancelled == len(batch)
            assert (stats.failed, stats.expired) == (0, 0)
            computed = (outcome.timings.steps - outcome.timings.extrapolated_steps for outcome in finished)
            assert stats.edit_steps >= sum(computed)
            # No step of a template is recorded twice.
            assert len(rig.store.puts) == rig.recorded * checkpoint.forward.num_blocks
        alone = an_editor(checkpoint, codec=codec)
        for rider, outcome in zip(batch, outcomes, strict=True):
            if outcome is not None:
                result = alone.edit(rider.request)
                assert levels_between(outcome, result.picture) <= 1
                assert outcome.timings.dense_steps == result.timings.dense_steps
                assert outcome.timings.tokens_active == result.timings.tokens_active
                assert outcome.timings.extrapolated_steps == result.timings.extrapolated_steps

    run(test)
