"""The runner: whose failure is whose, what goes on beside steps, how edits end, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image
from torch import Tensor

from instgenie.checkpoint import Checkpoint
from instgenie.errors import DeadlineError, InvalidInputError, ReplicaError
from instgenie.models.segment import Segment
from instgenie.orders import Output, ReplicaStats, StepReport, WarmOrder
from instgenie.replica import batch_runner
from instgenie.replica.output_file import encode_picture
from instgenie.sched.limits import BatchLimits
from instgenie.sched.step_batch import StepBatch
from instgenie.text import Prompt, PromptEncoder
from instgenie.tracing import open_trace
from instgenie_cache import TemplateLease
from tests.instgenie.batches import CountedStore, Rider
from tests.instgenie.edits import an_editor, pixels, random_picture
from tests.instgenie.replica.rig import SECONDS, Gate, Rig, a_rig, levels_between, opened, pixels_of

pytestmark = pytest.mark.asyncio

RIDER = Rider()
OTHERS = [Rider(picture=number, seed=number, prompt=f"apple {number}") for number in range(1, 3)]


@pytest_asyncio.fixture
async def rig(builtin_kind: Checkpoint) -> AsyncIterator[Rig]:
    async with a_rig(builtin_kind) as rig:
        yield rig


class MarkedPrompts:
    """A prompt encoder that keeps what it made of "bad", and can be held at "stop"."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self.bad: list[Tensor] = []
        self.gate = Gate()

    def encode(self, texts: list[str]) -> list[Prompt]:
        if "stop" in texts:
            self.gate.hold()
        prompts = self.encoder.encode(texts)
        if "bad" in texts:
            self.bad += [prompt.states for prompt in prompts]
        return prompts


class HeldCodec:
    """An autoencoder that calls `before_decode` before it decodes."""

    def __init__(self, codec: Any) -> None:
        self._codec = codec
        self.before_decode: Any = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def decode(self, *values: Any) -> Tensor:
        self.before_decode()
        decoded: Tensor = self._codec.decode(*values)
        return decoded


# Failures.


@pytest.mark.parametrize("service", ["dense", "records", "lane"])
async def test_edit_whose_pass_fails_is_the_only_one_that_does(builtin_kind: Checkpoint, service: Any) -> None:
    prompts = MarkedPrompts(builtin_kind.prompts)
    async with a_rig(replace(builtin_kind, prompts=prompts)) as rig:
        if service == "records":
            for picture in range(3):
                await rig.warm(picture)

        def fail(segments: Sequence[Segment]) -> None:
            if any(segment.text is bad for segment in segments for bad in prompts.bad):
                raise RuntimeError("out of memory")

        rig.forward.before = fail
        batch = [replace(rider, service=service) for rider in (replace(RIDER, prompt="bad"), *OTHERS)]
        failed, *outcomes = await asyncio.gather(*(rig.edit(rider) for rider in batch), return_exceptions=True)
        assert isinstance(failed, ReplicaError)
        assert "out of memory" in str(failed)
        for outcome, rider in zip(outcomes, batch[1:], strict=True):
            assert not isinstance(outcome, BaseException)
            if service != "lane":  # who rode along computes a step densely, where the lane has to take it alone
                assert levels_between(outcome, an_editor(builtin_kind).edit(rider.request).picture) <= 1
        stats = await rig.settled()
        assert (stats.done, stats.failed) == (2, 1)
        assert rig.store.is_idle


async def test_lane_whose_pass_fails_leaves_its_edits_dense(rig: Rig) -> None:
    def fail(segments: Sequence[Segment]) -> None:
        if any(segment.recorder is not None for segment in segments):
            raise RuntimeError("out of memory")

    rig.forward.before = fail
    outcomes = await asyncio.gather(rig.edit(RIDER), rig.edit(RIDER))
    assert {(o.timings.cache, o.timings.dense_steps) for o in outcomes} == {("refused", 4)}
    assert [report.outcome for report in await rig.warm()] == ["refused"]
    await rig.settled()
    assert rig.store.is_idle
    rig.forward.before = lambda _: None
    assert (await rig.edit(RIDER)).timings.cache == "cold"


async def test_picture_that_cannot_be_decoded_is_its_edits_failure(builtin_kind: Checkpoint) -> None:
    codec = HeldCodec(builtin_kind.codec)
    async with a_rig(replace(builtin_kind, codec=codec)) as rig:
        first = [True]

        def fail_once() -> None:
            if first:
                first.clear()
                raise RuntimeError("out of memory")

        codec.before_decode = fail_once
        results = await asyncio.gather(*(rig.edit(rider) for rider in OTHERS), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["EditOutcome", "ReplicaError"]
        stats = await rig.settled()
        assert (stats.done, stats.failed) == (1, 1)


async def test_preview_that_cannot_be_decoded_is_left_out(builtin_kind: Checkpoint) -> None:
    codec = HeldCodec(builtin_kind.codec)
    async with a_rig(replace(builtin_kind, codec=codec)) as rig:
        reports: list[StepReport] = []

        first = [True]

        def fail_once() -> None:
            if first:
                first.clear()
                raise RuntimeError("out of memory")

        codec.before_decode = fail_once
        outcome = await rig.edit(replace(RIDER, steps=20), reports.append, previews=1)
        assert outcome.timings.steps == 20
        assert [(report.step, report.preview) for report in reports] == [(step, None) for step in range(21)]
        assert (await rig.settled()).done == 1


async def test_runner_that_fails_tells_all_callers_at_once(rig: Rig) -> None:
    gate = rig.hold_at(1)
    edits = [rig.edit(rider) for rider in (RIDER, *OTHERS)]
    await gate.reached()
    await rig.submitted(3)
    warming = asyncio.create_task(rig.warm(7))
    watching = asyncio.create_task(rig.replica.watch())

    def schedule(now: float) -> StepBatch:
        raise KeyError(f"a fault of ours at {now}")

    rig.replica._runner._scheduler.schedule = schedule  # type: ignore[method-assign]
    gate.open()
    results = await asyncio.gather(*edits, warming, watching, return_exceptions=True)
    assert len({str(result) for result in results}) == 1
    assert str(results[0]).startswith("the replica failed: KeyError: 'a fault of ours at")
    for call in (rig.edit(RIDER), rig.warm(), rig.replica.watch()):
        with pytest.raises(ReplicaError, match="a fault of ours"):
            await call
    await rig.replica.drain()


# What goes on beside the steps.


async def test_picture_that_takes_long_to_finish_holds_nobody_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()

    def held(picture: Image.Image, output: Output) -> bytes:
        if output.quality == 7:
            gate.hold()
        return encode_picture(picture, output)

    monkeypatch.setattr(batch_runner, "encode_picture", held)
    slow = rig.edit(RIDER, output=Output(quality=7))
    await gate.reached()
    await rig.until(lambda stats: not stats.lanes)
    at_step = rig.hold_at(0)
    edit = rig.edit(OTHERS[0])
    await at_step.reached()
    stats = await rig.replica.stats()
    assert (stats.waiting, stats.running, stats.finishing, stats.lanes) == (0, 1, 1, 1)
    at_step.open()
    assert (await edit).timings.steps == 4
    assert not slow.done()
    gate.open()
    await slow
    stats = await rig.settled()
    assert (stats.done, stats.finishing) == (2, 0)


async def test_picture_that_was_decoded_counts_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the runner takes the step that comes after its decoding."""
    finishing = Gate()

    def held(picture: Image.Image, output: Output) -> bytes:
        if output.quality == 7:
            finishing.hold()
        return encode_picture(picture, output)

    monkeypatch.setattr(batch_runner, "encode_picture", held)
    first, at_step = Gate(), Gate()

    def before(_: object) -> None:
        (at_step if rig.replica._runner._finishing else first).hold()

    rig.forward.before = before
    long, short = rig.edit(replace(RIDER, steps=60)), rig.edit(RIDER, output=Output(quality=7))
    await first.reached()
    await rig.submitted(2)
    first.open()
    await at_step.reached()
    stats = await rig.replica.stats()
    assert (stats.running, stats.finishing) == (1, 1)
    for gate in (finishing, at_step):
        gate.open()
    await asyncio.gather(long, short)


async def test_previews_come_in_order_before_the_result(
    rig: Rig, builtin_kind: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, made = Gate(), list[Image.Image]()

    def held(picture: Image.Image, output: Output) -> bytes:
        made.append(picture)
        if len(made) == 1:
            gate.hold()
        return encode_picture(picture, output)

    monkeypatch.setattr(batch_runner, "encode_picture", held)
    reports: list[StepReport] = []
    rider = replace(RIDER, steps=9)
    edit = rig.edit(rider, reports.append, previews=2)
    edit.add_done_callback(lambda _: reports.append(StepReport(99, 9)))
    await gate.reached()
    assert (await rig.edit(OTHERS[0])).timings.steps == 4  # the first preview does not hold others up
    assert [report.step for report in reports] == [0, 1, 2]  # what comes after it waits
    gate.open()
    await edit
    await asyncio.sleep(0)
    assert [report.step for report in reports] == [*range(10), 99]
    shown = {report.step: report.preview for report in reports if report.preview is not None}
    assert list(shown) == [3, 6]
    with an_editor(builtin_kind).start(rider.request) as running:
        while not running.done:
            running.advance()
            if (preview := shown.get(running.step)) is not None:
                expected = running.preview()
                assert np.abs(pixels(opened(preview)).astype(int) - pixels(expected)).max() <= 1


async def test_what_callers_want_of_the_device_is_done_one_thing_between_two_steps(rig: Rig) -> None:
    gate = rig.hold_at(1)
    edit = rig.edit(replace(RIDER, service="dense", steps=9))
    await gate.reached()
    passes: list[int] = []
    for _ in range(4):
        rig.replica._runner.call(lambda: passes.append(len(rig.forward.calls)))
    gate.open()
    await edit
    assert passes == [2, 3, 4, 5]


async def test_timings_tell_the_batch(rig: Rig) -> None:
    for picture in range(3):
        await rig.warm(picture)
    gate = rig.hold_at(0)
    edits = [rig.edit(RIDER)]
    await gate.reached()
    edits += [rig.edit(rider) for rider in OTHERS]
    await rig.submitted(3)
    gate.open()
    batches = [(await edit).timings.batch for edit in edits]
    stats = await rig.settled()
    steps = [segments for segments, _ in rig.forward.calls if segments[0].recorder is None]
    texts = {id(segment.text) for segments in steps for segment in segments}
    found = []  # of each prompt, and of the empty one, which all of them have besides
    for text in texts:
        own = [len(segments) // 2 for segments in steps if any(id(segment.text) == text for segment in segments)]
        found.append((len(own), sum(own) / len(own)))
    assert [steps_taken for steps_taken, _ in sorted(found)[:3]] == [4, 4, 4]
    assert [batch for _, batch in sorted(found)[:3]] == pytest.approx(sorted(batches))
    assert max(batches) > 1
    assert (stats.steps, stats.edit_steps) == (3 + len(steps), 12)  # three warm-ups, each in one


# Ends.


async def test_edit_whose_deadline_has_passed_costs_no_step(rig: Rig) -> None:
    with pytest.raises(DeadlineError):
        await rig.edit(RIDER, deadline_seconds=0.0)
    assert not rig.forward.calls
    assert (await rig.edit(RIDER, deadline_seconds=100.0)).timings.steps == 4
    stats = await rig.settled()
    assert (stats.expired, stats.done) == (1, 1)


async def test_edit_that_cannot_meet_its_deadline_any_more_ends_before_its_next_step(rig: Rig) -> None:
    late = [0.0]
    rig.replica._runner._clock = lambda: time.monotonic() + late[0]
    gate = rig.hold_at(1)
    reports: list[StepReport] = []
    edits = [rig.edit(RIDER, reports.append, deadline_seconds=100.0)]
    await gate.reached()
    edits.append(rig.edit(OTHERS[0]))
    await rig.submitted(2)
    late[0] = 1000.0
    gate.open()
    with pytest.raises(DeadlineError):
        await edits[0]
    assert (await edits[1]).timings.steps == 4
    stats = await rig.settled()
    assert stats.edit_steps == reports[-1].step + 4
    assert reports[-1].step <= 2  # the one that was being taken, and no more
    assert rig.store.is_idle


async def test_drain_waits_for_what_was_taken_and_refuses_the_rest(rig: Rig) -> None:
    gate = rig.hold_at(0)
    edits = [rig.edit(rider) for rider in OTHERS]
    await gate.reached()
    large = WarmOrder(id="warm", picture=pixels_of(random_picture(150, 100)))
    windows: list[Any] = []
    warming = asyncio.create_task(rig.replica.warm(large, windows.append))
    await asyncio.sleep(0)
    draining = asyncio.create_task(rig.replica.drain())
    await asyncio.sleep(0)
    for call in (rig.edit(RIDER), rig.warm()):
        with pytest.raises(ReplicaError, match="takes no more orders: it is stopping"):
            await call
    assert not draining.done()
    gate.open()
    await draining
    assert all(edit.done() for edit in edits)
    assert [(await edit).timings.steps for edit in edits] == [4, 4]
    await warming
    assert len(windows) == windows[0].windows > 1


async def test_closing_fails_everything_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is finished, what runs, what waits, what records."""
    finishing = Gate()
    monkeypatch.setattr(batch_runner, "encode_picture", finishing.hold)
    calls: list[asyncio.Task[Any]] = [rig.edit(replace(RIDER, steps=1))]
    await finishing.reached()
    gate = rig.hold_at(0)
    calls += [rig.edit(rider) for rider in OTHERS]
    await gate.reached()
    await rig.submitted(3)
    calls.append(asyncio.create_task(rig.warm(7)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(rig.replica.close())
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [str(result) for result in results] == 4 * ["the replica was closed"]
    assert not closing.done()  # of its threads two are held
    for held in (gate, finishing):
        held.open()
    await closing
    assert len(rig.forward.calls) <= 3
    assert rig.store.is_idle


async def test_tenants_take_turns(builtin_kind: Checkpoint) -> None:
    async with a_rig(builtin_kind, limits=BatchLimits(edits=1, encode_ahead=1)) as rig:
        begun: list[str] = []

        def edit(tenant: str) -> asyncio.Task[Any]:
            def report(now: StepReport) -> None:
                if now.step == 1:
                    begun.append(tenant)

            return rig.edit(replace(RIDER, service="dense"), report, namespace=tenant)

        gate = rig.hold_at(0)
        first = edit("ann")
        await gate.reached()
        of_ann = [edit("ann") for _ in range(4)]
        await rig.submitted(5)
        of_bob = [edit("bob") for _ in range(2)]
        await rig.submitted(7)
        gate.open()
        await asyncio.gather(first, *of_ann, *of_bob)
        assert begun.index("bob") <= 2
        assert begun[:5].count("bob") == 2


async def test_numbers_add_up(rig: Rig) -> None:
    with pytest.raises(DeadlineError):
        await rig.edit(RIDER, deadline_seconds=0.0)
    gate = rig.hold_at(2)
    leaving, *staying = [rig.edit(rider) for rider in (RIDER, *OTHERS)]
    await gate.reached()
    await rig.submitted(4)
    leaving.cancel()
    await asyncio.wait({leaving})
    gate.open()
    with pytest.raises(InvalidInputError):
        await rig.edit(replace(RIDER, steps=0))
    outcomes = await asyncio.gather(*staying)
    stats = await rig.settled()
    assert (stats.done, stats.failed, stats.cancelled, stats.expired) == (2, 0, 1, 1)
    assert (stats.waiting, stats.running, stats.finishing, stats.lanes) == (0, 0, 0, 0)
    assert stats.steps == len(rig.forward.calls)
    assert stats.edit_steps >= sum(outcome.timings.steps for outcome in outcomes)
    assert 0 < stats.busy_seconds < 60
    assert stats.tokens > 0


# Nothing stays.


def left_of(rig: Rig) -> dict[str, object]:
    """What the replica knows of the edits that it had."""
    runner = rig.replica._runner
    desk, counts = runner._lanes, runner._scheduler.counts()
    known = {
        "leases": rig.store.leases,
        "writers": rig.store.writers,
        "jobs": runner._jobs,
        "finishing": runner._finishing,
        "acts": runner._acts,
        "asked": desk._asked,
        "lanes": desk._lanes,
        "warming": desk._warming,
        "calls": rig.replica._calls,
        "scheduled": None if counts == type(counts)() else counts,
    }
    return {name: held for name, held in known.items() if held}


class HeldStore(CountedStore):
    """Holds whoever asks for a lease, while `gate` is there."""

    gate: Gate | None = None

    def lease(self, template: str) -> TemplateLease | None:
        if self.gate is not None:
            self.gate.hold()
        return super().lease(template)


@pytest.mark.parametrize("is_warm", [True, False])
async def test_edit_that_leaves_while_its_template_is_looked_up(builtin_kind: Checkpoint, is_warm: bool) -> None:
    """A store that hangs keeps nobody else waiting whose template is known."""
    store = HeldStore()
    async with a_rig(builtin_kind, store) as rig:
        if is_warm:
            await rig.warm()
        at_step = rig.hold_at(0)
        running = rig.edit(OTHERS[0])
        await at_step.reached()
        gate = store.gate = Gate()
        at_step.open()
        looked_up = rig.edit(RIDER)
        await gate.reached()
        assert (await running).timings.steps == 4
        assert (await rig.replica.stats()).waiting == 1
        looked_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looked_up
        assert (await rig.edit(Rider(service="dense"))).timings.steps == 4
        gate.open()
        store.gate = None
        await rig.settled()
        assert not left_of(rig)


async def test_edit_joins_the_next_step_whatever_comes_while_it_is_looked_up(
    builtin_kind: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What else the runner is told does not end the time that the store has for its answer."""
    monkeypatch.setattr(batch_runner, "_LOOK_UP_SECONDS", SECONDS)
    store = HeldStore()
    async with a_rig(builtin_kind, store) as rig:
        await rig.warm()
        at_step = rig.hold_at(0)
        running = rig.edit(Rider(service="dense"))
        await at_step.reached()
        gate = store.gate = Gate()
        looked_up = rig.edit(RIDER)
        await rig.submitted(2)
        at_step.open()
        await gate.reached()
        for _ in range(3):
            await asyncio.to_thread(rig.pause)
        gate.open()
        batches = [(await edit).timings.batch for edit in (running, looked_up)]
        assert batches == [(1 + 2 + 2 + 2) / 4] * 2


async def test_records_that_a_store_does_not_take_hold_no_edit_up(builtin_kind: Checkpoint) -> None:
    store, gate = CountedStore(), Gate()
    async with a_rig(builtin_kind, store) as rig:
        await rig.warm(1)
        store.on_put = gate.hold
        cold = rig.edit(RIDER)
        await gate.reached()
        outcome = await cold
        assert (outcome.timings.cache, outcome.timings.dense_steps) == ("cold", 0)
        assert (await rig.edit(OTHERS[0])).timings.steps == 4
        gate.open()
        await rig.settled()
        assert (await rig.edit(RIDER)).timings.cache == "hit"


@pytest.mark.parametrize("kept_bytes", [None, 0])
@pytest.mark.parametrize("service", ["dense", "records", "lane"])
@pytest.mark.parametrize("step", range(5))
async def test_edit_that_leaves_at_any_step_leaves_nothing(
    builtin_kind: Checkpoint, service: Any, step: int, kept_bytes: int | None
) -> None:
    async with a_rig(builtin_kind, kept_bytes=kept_bytes) as rig:
        if service == "records":
            await rig.warm()
        rider = replace(RIDER, service=service)

        def report(now: StepReport) -> None:
            if now.step == step:
                for edit in edits:
                    edit.cancel()

        edits = [rig.edit(rider, report, previews=2), rig.edit(replace(rider, seed=1))]
        await asyncio.wait(edits)
        await rig.settled()
        await asyncio.to_thread(rig.drain_records)
        assert not left_of(rig)


async def test_edit_that_leaves_while_it_is_encoded_or_finished(
    builtin_kind: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, finishing = MarkedPrompts(builtin_kind.prompts), Gate()
    async with a_rig(replace(builtin_kind, prompts=prompts)) as rig:
        encoded = rig.edit(replace(RIDER, prompt="stop"))
        await prompts.gate.reached()
        encoded.cancel()
        await asyncio.wait({encoded})
        prompts.gate.open()
        monkeypatch.setattr(batch_runner, "encode_picture", finishing.hold)
        finished = rig.edit(RIDER)
        await finishing.reached()
        finished.cancel()
        await asyncio.wait({finished})
        finishing.open()
        stats: ReplicaStats = await rig.settled()
        assert (stats.done, stats.cancelled) == (1, 1)  # the picture of one was made, though nobody wants it
        assert not left_of(rig)


async def test_replica_that_is_closed_while_a_store_answers_gives_the_answer_back(builtin_kind: Checkpoint) -> None:
    store = HeldStore()
    async with a_rig(builtin_kind, store) as rig:
        gate = store.gate = Gate()
        edits = [rig.edit(RIDER), rig.edit(RIDER)]
        await gate.reached()
        await rig.submitted(2)
        warming = [asyncio.create_task(rig.warm()) for _ in range(2)]
        await asyncio.to_thread(rig.pause)
        closing = asyncio.create_task(rig.replica.close())
        await asyncio.gather(*edits, *warming, return_exceptions=True)
        gate.open()
        await closing
        assert rig.store.is_idle
        assert not rig.forward.calls


async def test_a_trace_tells_which_edits_took_part(rig: Rig, tmp_path: Path) -> None:
    with open_trace(tmp_path / "trace.json"):
        await asyncio.gather(*(rig.edit(rider) for rider in (RIDER, *OTHERS)))
    spans = [event for event in json.loads((tmp_path / "trace.json").read_text()) if event["ph"] == "X"]
    names = {span["name"] for span in spans}
    assert {"schedule", "encode", "assemble", "compute", "update", "decode", "finish"} <= names
    assert {name for span in spans if span["name"] == "compute" for name in span["args"]["names"].split()}
    for stage in ("encode", "decode", "finish"):
        assert all(span["args"]["edit"] for span in spans if span["name"] == stage)
