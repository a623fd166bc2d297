"""Edits of templates that are not recorded: who shares a lane, who waits for it, and what a store's failures cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.errors import TemplateNotCachedError
from instgenie.orders import EditOutcome
from instgenie.sched.limits import BatchLimits
from instgenie_cache import CacheError, StoreFullError, TemplateSize, TemplateWriter
from tests.instgenie.batches import CountedStore, Rider
from tests.instgenie.edits import an_editor
from tests.instgenie.replica.rig import Gate, a_rig, levels_between

pytestmark = pytest.mark.asyncio

STEPS, BLOCKS = 4, 2
TEMPLATE_BYTES = STEPS * BLOCKS * 2 * 64 * 2 * 16 * 4  # K and V of 64 tokens, 2 heads of 16 channels, float32
EACH_STEP_ONCE = [(step, block) for step in range(STEPS) for block in range(BLOCKS)]
RIDER = Rider()


def is_as_alone(outcome: EditOutcome, checkpoint: Checkpoint, rider: Rider = RIDER) -> bool:
    """Whether the picture is that of an edit by itself."""
    return levels_between(outcome, an_editor(checkpoint).edit(rider.request).picture) <= 1


def is_dense(outcome: EditOutcome, checkpoint: Checkpoint, rider: Rider = RIDER) -> bool:
    """Whether the picture is that of the edit on all tokens."""
    return levels_between(outcome, an_editor(checkpoint).dense(rider.request).picture) <= 1


@pytest.mark.parametrize("kept_bytes", [None, 0])
async def test_edits_of_one_template_share_one_lane(builtin_kind: Checkpoint, kept_bytes: int | None) -> None:
    batch = [Rider(seed=seed, prompt=f"apple {seed}", strength=strength) for seed, strength in enumerate((1, 1, 0.5))]
    async with a_rig(builtin_kind, kept_bytes=kept_bytes) as rig:
        gate = rig.hold_at(0)
        edits = [rig.edit(rider) for rider in batch]
        await gate.reached()
        await rig.submitted(3)  # all come before anything is recorded
        gate.open()
        outcomes = await asyncio.gather(*edits)
        await rig.settled()
        assert rig.store.puts == EACH_STEP_ONCE
        assert rig.recorded == STEPS
        assert {(o.timings.cache, o.timings.dense_steps, o.timings.tier) for o in outcomes} == {("cold", 0, None)}
        again = await rig.edit(RIDER)
        assert (again.timings.cache, rig.recorded) == ("hit", STEPS)
        assert not [o for o, rider in zip(outcomes, batch, strict=True) if not is_as_alone(o, builtin_kind, rider)]


@pytest.mark.parametrize("kept_bytes", [None, 0])
async def test_edit_that_comes_late(builtin_kind: Checkpoint, kept_bytes: int | None) -> None:
    """It reads what the lane keeps, or waits for the template's end, and is as alone; nothing is recorded twice."""
    late = Rider(seed=1, prompt="a pear")
    async with a_rig(builtin_kind, kept_bytes=kept_bytes) as rig:
        gate = rig.hold_at(1)
        first = rig.edit(RIDER)
        await gate.reached()
        second = rig.edit(late)
        await rig.submitted(2)
        gate.open()
        outcomes = await asyncio.gather(first, second)
        await rig.settled()
        assert rig.store.puts == EACH_STEP_ONCE
        together = {len(segments) for segments, _ in rig.forward.calls}
        # A lane and two passes of the first, with which the second goes, or it comes after the end.
        assert together == ({2, 3, 5} if kept_bytes is None else {2, 3})
        assert [(o.timings.cache, o.timings.dense_steps) for o in outcomes] == 2 * [("cold", 0)]
        assert (outcomes[1].timings.record_ms > 0) is (kept_bytes == 0)
        for outcome, rider in zip(outcomes, (RIDER, late), strict=True):
            assert is_as_alone(outcome, builtin_kind, rider)


async def test_edit_that_needs_the_last_steps_alone_has_the_lane_go_ahead(builtin_kind: Checkpoint) -> None:
    rider = Rider(strength=0.25)
    async with a_rig(builtin_kind, kept_bytes=0) as rig:
        outcome = await rig.edit(rider)
        await rig.settled()
        assert [len(segments) for segments, _ in rig.forward.calls] == [
            3,
            3,
        ]  # three steps of the lane, then one of both
        assert (outcome.timings.cache, outcome.timings.dense_steps, outcome.timings.steps) == ("cold", 0, 1)
        assert is_as_alone(outcome, builtin_kind, rider)


class Refusing(CountedStore):
    """Takes no template."""

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        raise StoreFullError("no room")


class Deaf(CountedStore):
    """Answers nothing."""

    def create(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def lease(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def holds(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def close(self) -> NoReturn:
        raise CacheError("connection lost")


class Faulty(CountedStore):
    """Fails in a way that no store should."""

    def lease(self, *_: object) -> NoReturn:
        raise ZeroDivisionError

    def holds(self, *_: object) -> NoReturn:
        raise ZeroDivisionError


@pytest.mark.parametrize("store", [Refusing, Deaf, Faulty, lambda: CountedStore(TEMPLATE_BYTES - 1)])
async def test_store_that_takes_no_template(builtin_kind: Checkpoint, store: Callable[[], CountedStore]) -> None:
    async with a_rig(builtin_kind, store()) as rig:
        outcomes = await asyncio.gather(rig.edit(RIDER), rig.edit(RIDER))
        assert [(o.timings.cache, o.timings.dense_steps) for o in outcomes] == 2 * [("refused", STEPS)]
        assert all(is_dense(outcome, builtin_kind) for outcome in outcomes)
        assert [report.outcome for report in await rig.warm()] == ["refused"]
        assert rig.recorded == 0


def failing_after(puts: int) -> Callable[[], None]:
    """Raises at what comes after so many calls."""
    left = [None] * puts

    def fail() -> None:
        if not left:
            raise StoreFullError("no room")
        left.pop()

    return fail


@pytest.mark.parametrize("kept_bytes", [None, 0])
@pytest.mark.parametrize("puts", [0, 1, 3, 7])
async def test_store_that_fails_while_a_template_is_put(
    builtin_kind: Checkpoint, puts: int, kept_bytes: int | None
) -> None:
    """The edit goes on densely; nothing of the template stays; the next edit records it."""
    store = CountedStore()
    async with a_rig(builtin_kind, store, kept_bytes=kept_bytes) as rig:
        store.on_put = failing_after(puts)
        rig.forward.on_block = lambda _: rig.drain_records()  # so that it is known when the step ends
        outcome = await rig.edit(RIDER)
        taken = puts // BLOCKS + 1  # steps with the lane
        assert (outcome.timings.cache, outcome.timings.dense_steps) == (
            "partial" if taken < STEPS else "cold",  # which is known too late to cost it anything
            STEPS - taken,
        )
        assert rig.recorded == taken
        await rig.settled()
        assert store.is_idle
        assert store.stats().used_bytes == 0
        store.on_put = lambda: None
        assert [(await rig.edit(RIDER)).timings.cache for _ in "ab"] == ["cold", "hit"]


async def test_store_that_does_not_commit(builtin_kind: Checkpoint) -> None:
    """The edit that rode along has all it needed; one that waited for the end computes densely."""
    store = CountedStore()
    async with a_rig(builtin_kind, store, kept_bytes=0) as rig:
        store.on_commit = failing_after(0)
        gate = rig.hold_at(1)
        first = rig.edit(RIDER)
        await gate.reached()
        second = rig.edit(Rider(seed=1))
        await rig.submitted(2)
        gate.open()
        outcomes = await asyncio.gather(first, second)
        assert is_as_alone(outcomes[0], builtin_kind)
        assert (outcomes[0].timings.cache, outcomes[0].timings.dense_steps) == ("cold", 0)
        assert is_dense(outcomes[1], builtin_kind, Rider(seed=1))
        assert (outcomes[1].timings.cache, outcomes[1].timings.dense_steps) == ("refused", STEPS)
        assert store.stats().templates == 0


async def test_edit_waits_for_a_lane_whose_steps_are_not_all_kept(builtin_kind: Checkpoint) -> None:
    """Which steps are records is known in the end: with keyframes the edit reads the template, as it would alone."""
    async with a_rig(builtin_kind, drift=0.3) as rig:
        gate = rig.hold_at(0)
        edits = [rig.edit(RIDER), rig.edit(RIDER)]
        await gate.reached()
        await rig.submitted(2)
        gate.open()
        outcomes = await asyncio.gather(*edits)
        expected = an_editor(builtin_kind, drift=0.3).edit(RIDER.request)
        for outcome in outcomes:
            assert levels_between(outcome, expected.picture) <= 1
            assert outcome.timings.dense_steps == 0
            assert (outcome.timings.record_ms > 0) is (outcome.timings.cache == "cold")
        assert "cold" in {outcome.timings.cache for outcome in outcomes}  # that of whichever was prepared first
        assert rig.recorded == STEPS
        assert (await rig.edit(RIDER)).timings.cache == "hit"


async def test_edit_joins_the_warm_up_of_its_template(builtin_kind: Checkpoint) -> None:
    """A lane step at a time, so that the edit finds it begun. One that needs the records does not wait for them."""
    steps = 60
    rider = Rider(steps=steps)
    async with a_rig(builtin_kind, limits=BatchLimits(rows=1)) as rig:
        gate = rig.hold_at(1)
        warming = asyncio.create_task(rig.warm(steps=steps))
        await gate.reached()
        only, edit = rig.edit(rider, cache="only"), rig.edit(rider)
        await rig.submitted(2)
        both_encoded = rig.hold_at(20)
        gate.open()
        await both_encoded.reached()
        await rig.answered()  # before the lane is done
        both_encoded.open()
        outcome = await edit
        assert [report.outcome for report in await warming] == ["cold"]
        with pytest.raises(TemplateNotCachedError):
            await only
        assert rig.recorded == steps
        assert (outcome.timings.cache, outcome.timings.dense_steps) == ("cold", 0)
        assert is_as_alone(outcome, builtin_kind, rider)
        assert [report.outcome for report in await rig.warm(steps=steps)] == ["hit"]


@pytest.mark.parametrize("taken", [1, STEPS - 2])
async def test_warm_up_that_nobody_wants_any_more_leaves_nothing(builtin_kind: Checkpoint, taken: int) -> None:
    """However much of it is done: nobody is told of what is recorded from then on, and nobody could have it dropped."""
    async with a_rig(builtin_kind, limits=BatchLimits(rows=1)) as rig:
        gate = rig.hold_at(taken)
        warming = asyncio.create_task(rig.warm())
        await gate.reached()
        warming.cancel()
        await asyncio.wait({warming})
        gate.open()
        await rig.settled()
        assert rig.store.is_idle
        assert rig.store.stats().templates == 0


async def test_warm_up_that_nobody_wants_any_more_goes_on_for_an_edit(builtin_kind: Checkpoint) -> None:
    steps = 60
    async with a_rig(builtin_kind, limits=BatchLimits(rows=1)) as rig:
        gate = rig.hold_at(1)
        warming = asyncio.create_task(rig.warm(steps=steps))
        await gate.reached()
        joined = asyncio.Event()
        edit = rig.edit(Rider(steps=steps), lambda _: joined.set())
        await rig.submitted(1)
        gate.open()
        await joined.wait()
        warming.cancel()
        await asyncio.wait({warming})
        assert (await edit).timings.cache == "cold"
        await rig.settled()
        assert rig.store.stats().templates == 1
        assert rig.recorded == steps


async def test_warm_up_packs_steps_while_nothing_else_runs(builtin_kind: Checkpoint) -> None:
    async with a_rig(builtin_kind) as rig:
        await asyncio.gather(rig.warm(), rig.warm())
        assert [len(segments) for segments, _ in rig.forward.calls] == [STEPS]
        assert sorted(rig.store.puts) == EACH_STEP_ONCE


async def test_edit_that_needs_records_waits_while_they_are_committed(builtin_kind: Checkpoint) -> None:
    gate, store = Gate(), CountedStore()
    store.on_commit = gate.hold
    async with a_rig(builtin_kind, store) as rig:
        first = rig.edit(RIDER)
        await gate.reached()
        assert is_as_alone(await first, builtin_kind)  # who rode along needs no more of it
        second = rig.edit(RIDER, cache="only")
        await rig.submitted(2)
        gate.open()
        assert (await second).timings.cache == "hit"
        assert rig.recorded == STEPS


@pytest.mark.parametrize(("step", "goes_on"), [(1, False), (2, True), (3, True)])
async def test_lane_whose_edit_is_cancelled(builtin_kind: Checkpoint, step: int, goes_on: bool) -> None:
    """It ends, unless half of it is done by then."""
    async with a_rig(builtin_kind) as rig:
        gate = rig.hold_at(step - 1)
        edit = rig.edit(RIDER)
        await gate.reached()
        edit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await edit
        gate.open()
        stats = await rig.settled()
        assert rig.store.is_idle
        assert stats.cancelled == 1
        assert rig.recorded == (STEPS if goes_on else step)
        assert (await rig.edit(RIDER)).timings.cache == ("hit" if goes_on else "cold")


@pytest.mark.parametrize("leaver", [0, 1])
async def test_lane_goes_on_for_who_stays(builtin_kind: Checkpoint, leaver: int) -> None:
    rider = Rider(steps=9)
    async with a_rig(builtin_kind) as rig:
        begun = rig.hold_at(0)
        edits = [rig.edit(rider), rig.edit(rider)]
        await begun.reached()
        await rig.submitted(2)
        both_ride = rig.hold_at(3)
        begun.open()
        await both_ride.reached()
        edits[leaver].cancel()
        await asyncio.wait({edits[leaver]})
        both_ride.open()
        outcome = await edits[1 - leaver]
        await rig.settled()
        assert rig.recorded == 9
        assert (outcome.timings.cache, outcome.timings.dense_steps) == ("cold", 0)
        assert is_as_alone(outcome, builtin_kind, rider)


async def test_warm_up_that_nobody_waits_for_any_more_is_not_begun(builtin_kind: Checkpoint) -> None:
    gate = Gate()

    class Slow(CountedStore):
        def holds(self, template: str) -> bool:
            gate.hold()
            return super().holds(template)

    async with a_rig(builtin_kind, Slow()) as rig:
        warming = asyncio.create_task(rig.warm())
        await gate.reached()
        warming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await warming
        gate.open()
        await rig.settled()
        assert rig.recorded == 0
