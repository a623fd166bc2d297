"""A replica in this process: edits in turn, reports, cancellation, errors."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from torch import Tensor

from instgenie.checkpoint import Checkpoint
from instgenie.errors import InvalidInputError, ReplicaError, TemplateNotCachedError
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.orders import HeldTemplate, Output, StepReport, WarmOrder, WarmReport
from instgenie.replica.local_replica import LocalReplica
from instgenie.replica.output_file import encode_picture, preview_steps
from instgenie.sched.limits import BatchLimits
from instgenie.text import Prompt, PromptEncoder
from instgenie_cache import CacheError, MemoryStore, TemplateSize
from tests.instgenie.batches import Rider
from tests.instgenie.edits import BrokenStore, WatchedForward, a_request, an_editor, pixels, random_picture
from tests.instgenie.replica.rig import a_rig, an_order, opened, pixels_of

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def replica(builtin_kind: Checkpoint) -> AsyncIterator[LocalReplica]:
    replica = LocalReplica(an_editor(builtin_kind), "cpu")
    yield replica
    await replica.close()


async def test_edit_is_the_editors(replica: LocalReplica, builtin_kind: Checkpoint) -> None:
    reports: list[StepReport] = []
    outcome = await replica.edit(an_order(), reports.append)
    expected = an_editor(builtin_kind).edit(a_request())
    assert np.array_equal(pixels(opened(outcome.image)), pixels(expected.picture))
    assert (outcome.width, outcome.height) == (64, 64)
    assert reports == [StepReport(step, 4) for step in range(5)]
    assert (outcome.timings.cache, outcome.timings.steps) == ("cold", 4)
    timings = outcome.timings
    assert min(timings.queue_ms, timings.encode_ms, timings.denoise_ms, timings.decode_ms) > 0
    assert timings.record_ms == 0  # its template was recorded in its own steps


async def test_previews_are_spread_over_the_steps(replica: LocalReplica) -> None:
    reports: list[StepReport] = []
    await replica.edit(an_order(steps=8, previews=3), reports.append)
    made = {report.step: report.preview for report in reports if report.preview is not None}
    assert list(made) == [2, 4, 6]
    for preview in made.values():
        assert opened(preview).size == (64, 64)


async def test_preview_steps() -> None:
    for steps in range(1, 30):
        for previews in range(4):
            chosen = preview_steps(range(1, steps + 1), previews)
            assert len(chosen) == min(previews, steps - 1)
            assert chosen <= set(range(1, steps))


async def test_preview_steps_where_steps_are_extrapolated() -> None:
    assert preview_steps([1, 2, 5, 8, 11, 14, 17, 20], 3) == {2, 8, 14}
    assert preview_steps([1, 2, 12], 3) == {1, 2}


async def test_cache_policies(replica: LocalReplica) -> None:
    with pytest.raises(TemplateNotCachedError, match="is not cached"):
        await replica.edit(an_order(cache="only"), lambda _: None)
    caches = [
        (await replica.edit(an_order(cache=policy), lambda _: None)).timings.cache
        for policy in ("off", "auto", "only", "auto")
    ]
    assert caches == ["off", "cold", "hit", "hit"]


async def test_warm_then_edit(replica: LocalReplica) -> None:
    reports: list[WarmReport] = []
    await replica.warm(WarmOrder(id="warm", picture=pixels_of(random_picture())), reports.append)
    assert [(r.number, r.windows, r.box, r.outcome) for r in reports] == [(1, 1, (0, 0, 64, 64), "cold")]
    assert (await replica.edit(an_order(cache="only"), lambda _: None)).timings.cache == "hit"


async def test_what_is_held_of_a_template(replica: LocalReplica) -> None:
    await replica.edit(an_order(), lambda _: None)
    reports: list[WarmReport] = []
    await replica.warm(WarmOrder(id="warm", picture=pixels_of(random_picture())), reports.append)
    key, num_bytes = reports[0].key, reports[0].num_bytes
    for cache in ("auto", "off", "only"):
        await replica.edit(an_order(cache=cache), lambda _: None)
    assert await replica.held([key, key, "x"]) == {key: HeldTemplate(num_bytes, 2), "x": HeldTemplate(None, 0)}
    await replica.forget([key])
    assert await replica.held([key]) == {key: HeldTemplate(None, 0)}


async def test_edits_go_between_the_windows_of_a_template(builtin_kind: Checkpoint) -> None:
    """An edit that comes while a large template is recorded waits for one window, not for all of them."""
    async with a_rig(builtin_kind) as rig:
        ended: list[str] = []
        edits: list[asyncio.Task[Any]] = []

        def report(window: WarmReport) -> None:
            assert window.windows > 10
            ended.append("window")
            if window.number == 1:
                edits.append(rig.edit(Rider()))
                edits[0].add_done_callback(lambda _: ended.append("edit"))

        gate = rig.hold_at(1)  # at the second window
        order = WarmOrder(id="warm", picture=pixels_of(random_picture(400, 300)))
        warming = asyncio.create_task(rig.replica.warm(order, report))
        await gate.reached()
        await rig.submitted(1)
        gate.open()
        await warming
        assert (await edits[0]).timings.steps == 4
        assert ended[-1] == "window"


async def test_larger_priorities_go_first(builtin_kind: Checkpoint) -> None:
    async with a_rig(builtin_kind, limits=BatchLimits(edits=1, encode_ahead=1)) as rig:
        begun: list[int] = []

        def edit(priority: int) -> asyncio.Task[Any]:
            def report(now: StepReport) -> None:
                if now.step == 1:
                    begun.append(priority)

            return rig.edit(Rider(), report, priority=priority)

        gate = rig.hold_at(0)
        running = rig.edit(Rider(seed=1))
        await gate.reached()
        waiting = [edit(priority) for priority in (0, -1, 1, 2)]
        await rig.submitted(5)  # all come while it runs
        gate.open()
        await asyncio.gather(running, *waiting)
        assert begun == [2, 1, 0, -1]


async def test_an_edit_whose_caller_leaves_holds_no_picture_while_it_is_queued(builtin_kind: Checkpoint) -> None:
    async with a_rig(builtin_kind) as rig:
        gate = rig.hold_at(0)
        running = rig.edit(Rider())
        await gate.reached()

        def report(_: StepReport) -> None: ...

        left = weakref.ref(report)  # what is queued holds it as it does the picture
        asked = rig.edit(Rider(), report)
        await rig.submitted(2)
        asked.cancel()
        await asyncio.wait({asked})
        del report, asked
        gc.collect()
        assert not running.done()
        assert left() is None
        gate.open()
        await running


async def test_records_serve_their_own_namespace_only(replica: LocalReplica) -> None:
    ann = an_order(namespace="ann")
    reports: list[WarmReport] = []
    await replica.edit(ann, lambda _: None)
    with pytest.raises(TemplateNotCachedError):
        await replica.edit(replace(ann, namespace="bob", cache="only"), lambda _: None)
    picture = pixels_of(random_picture())
    await replica.warm(WarmOrder(id="warm", picture=picture, namespace="bob"), reports.append)
    assert [report.outcome for report in reports] == ["cold"]
    await replica.forget([report.key for report in reports])
    assert (await replica.edit(replace(ann, cache="only"), lambda _: None)).timings.cache == "hit"


async def test_pinned_template_stays_until_it_is_unpinned_or_forgotten(builtin_kind: Checkpoint) -> None:
    one_template_bytes = 4 * 2 * 2 * 64 * 2 * 16 * 4
    replica = LocalReplica(an_editor(builtin_kind, MemoryStore(one_template_bytes)), "cpu")
    first, second = (random_picture(seed=seed) for seed in (1, 2))
    reports: list[WarmReport] = []
    for picture in (first, second):  # the second evicts the first
        await replica.warm(WarmOrder(id="warm", picture=pixels_of(picture)), reports.append)
    keys = [report.key for report in reports]
    assert await replica.pin(keys) == await replica.pin(keys) == 1
    await replica.warm(WarmOrder(id="warm", picture=pixels_of(first)), reports.append)
    await replica.unpin(keys)
    await replica.warm(WarmOrder(id="warm", picture=pixels_of(first)), reports.append)
    assert [report.outcome for report in reports] == ["cold", "cold", "refused", "cold"]
    assert await replica.pin(keys) == 1
    await replica.forget(keys)
    assert await replica.pin(keys) == 0
    await replica.close()


async def test_cache_that_fails(builtin_kind: Checkpoint) -> None:
    """It holds nothing, and who deletes is told that nothing was."""
    replica = LocalReplica(an_editor(builtin_kind, BrokenStore(1 << 20)), "cpu")
    assert (await replica.edit(an_order(), lambda _: None)).timings.cache == "refused"
    assert await replica.pin(["x"]) == 0
    await replica.unpin(["x"])
    assert await replica.held(["x"]) == {"x": HeldTemplate(None, 0)}
    with pytest.raises(ReplicaError, match="2 templates cannot be dropped: connection lost"):
        await replica.forget(["x", "y"])
    await replica.close()


class StuckStore(MemoryStore):
    """Answers nothing about a template before it is let go, and notes what was asked."""

    def __init__(self, budget_bytes: int) -> None:
        super().__init__(budget_bytes)
        self.reached, self.go = threading.Event(), threading.Event()
        self.asked: list[str] = []

    def wait(self, what: str) -> None:
        self.asked.append(what)
        self.reached.set()
        assert self.go.wait(10)

    def pin(self, template: str) -> bool:
        self.wait("pin")
        return super().pin(template)

    def unpin(self, template: str) -> None:
        self.wait("unpin")
        super().unpin(template)

    def delete(self, template: str) -> None:
        self.wait("delete")
        super().delete(template)

    def num_bytes(self, template: str) -> int | None:
        self.wait("num_bytes")
        return super().num_bytes(template)


async def test_store_that_hangs_keeps_edits_going_and_is_asked_in_order(builtin_kind: Checkpoint) -> None:
    store = StuckStore(1 << 30)
    replica = LocalReplica(an_editor(builtin_kind, store), "cpu")
    reports: list[WarmReport] = []
    await replica.warm(WarmOrder(id="warm", picture=pixels_of(random_picture())), reports.append)
    key = reports[0].key
    questions = [
        asyncio.create_task(question([key]))
        for question in (replica.pin, replica.held, replica.unpin, replica.forget, replica.pin)
    ]
    await asyncio.to_thread(store.reached.wait, 10)
    assert (await replica.edit(an_order(cache="only"), lambda _: None)).timings.cache == "hit"
    assert not any(question.done() for question in questions)
    store.go.set()
    pinned, held, _, _, again = await asyncio.gather(*questions)
    assert (pinned, again) == (1, 0)
    assert held == {key: HeldTemplate(reports[0].num_bytes, 0)}
    assert store.asked == ["pin", "num_bytes", "unpin", "delete", "pin"]
    await replica.close()


async def test_closing_answers_what_was_asked_and_takes_no_more_questions(builtin_kind: Checkpoint) -> None:
    store = StuckStore(1 << 30)
    replica = LocalReplica(an_editor(builtin_kind, store), "cpu")
    asked = asyncio.create_task(replica.held(["x"]))
    await asyncio.to_thread(store.reached.wait, 10)
    closing = asyncio.create_task(replica.close())
    store.go.set()
    await closing
    assert await asked == {"x": HeldTemplate(None, 0)}
    with pytest.raises(ReplicaError, match="the replica was closed"):
        await replica.held(["x"])
    await replica.close()


class ToldStore(MemoryStore):
    """Notes which templates it was told to bring nearer."""

    def __init__(self, budget_bytes: int) -> None:
        super().__init__(budget_bytes)
        self.told: list[str] = []
        self.was_told = threading.Event()

    def prefetch(self, template: str) -> None:
        self.told.append(template)
        self.was_told.set()
        raise CacheError("not today")


async def test_records_of_an_edit_that_waits_are_asked_for(builtin_kind: Checkpoint) -> None:
    store = ToldStore(1 << 30)
    forward = GatedForward(builtin_kind.forward, gate_at=1)
    replica = LocalReplica(an_editor(replace(builtin_kind, forward=forward), store), "cpu")
    running = asyncio.create_task(replica.edit(an_order(), lambda _: None))
    await asyncio.to_thread(forward.reached.wait, 10)
    waiting = asyncio.create_task(replica.edit(an_order(picture=pixels_of(random_picture(seed=1))), lambda _: None))
    uncached = asyncio.create_task(replica.edit(an_order(cache="off"), lambda _: None))
    assert await asyncio.to_thread(store.was_told.wait, 10)
    forward.go.set()
    outcomes = [await edit for edit in (running, waiting, uncached)]
    assert [outcome.timings.cache for outcome in outcomes] == ["cold", "cold", "off"]
    assert len(store.told) == 1
    await replica.close()


async def test_timings_say_the_tier(replica: LocalReplica) -> None:
    tiers = [(await replica.edit(an_order(), lambda _: None)).timings.tier for _ in "ab"]
    assert tiers == [None, "host"]


async def test_without_crop_the_whole_picture_is_seen(replica: LocalReplica) -> None:
    picture = random_picture(200, 150)
    mask = np.zeros((150, 200), np.uint8)
    mask[10:20, 10:20] = 1
    order = an_order(picture=pixels_of(picture), mask=mask.tobytes(), steps=1)
    window, whole = [await replica.edit(replace(order, crop=crop), lambda _: None) for crop in (True, False)]
    assert window.timings.tokens_active > whole.timings.tokens_active  # the mask is larger in its window


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: 0 is not in 1..1000"),
        ({"strength": 2.0}, "strength: 2.0"),
        ({"mask": bytes(64 * 64)}, "mask: is empty"),
        ({"prompt": "\ud83d"}, "prompt: character 0"),
    ],
)
async def test_bad_orders_are_the_callers_fault(replica: LocalReplica, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await replica.edit(an_order(**settings), lambda _: None)
    assert str(caught.value).startswith(message)
    assert (await replica.edit(an_order(), lambda _: None)).width == 64


class StoppedPrompts:
    """A prompt encoder that waits at some text until it is let go, or fails there."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self.reached, self.go = threading.Event(), threading.Event()

    def encode(self, texts: list[str]) -> list[Prompt]:
        if "stop" in texts:
            self.reached.set()
            assert self.go.wait(10)
        if "fail" in texts:
            raise RuntimeError("the encoder broke")
        return self.encoder.encode(texts)


@pytest_asyncio.fixture
async def stopped(builtin_kind: Checkpoint) -> AsyncIterator[tuple[LocalReplica, StoppedPrompts]]:
    prompts = StoppedPrompts(builtin_kind.prompts)
    replica = LocalReplica(an_editor(replace(builtin_kind, prompts=prompts)), "cpu")
    yield replica, prompts
    prompts.go.set()
    await replica.close()


async def test_failure_is_told_and_the_replica_lives_on(stopped: tuple[LocalReplica, StoppedPrompts]) -> None:
    replica, _ = stopped
    with pytest.raises(ReplicaError, match="RuntimeError: the encoder broke"):
        await replica.edit(an_order(prompt="fail"), lambda _: None)
    assert (await replica.edit(an_order(), lambda _: None)).width == 64


async def test_cancelled_edit_takes_no_further_step(stopped: tuple[LocalReplica, StoppedPrompts]) -> None:
    replica, prompts = stopped
    reports: list[StepReport] = []
    task = asyncio.create_task(replica.edit(an_order(prompt="stop"), reports.append))
    await asyncio.to_thread(prompts.reached.wait, 10)
    waiting = asyncio.create_task(replica.edit(an_order(seed=1), reports.append))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    prompts.go.set()
    assert (await waiting).width == 64  # the next one gets its turn
    assert [report.step for report in reports] == [0, 1, 2, 3, 4]  # none of the cancelled one


async def test_cancelled_while_it_waits_never_starts(stopped: tuple[LocalReplica, StoppedPrompts]) -> None:
    replica, prompts = stopped
    first = asyncio.create_task(replica.edit(an_order(prompt="stop"), lambda _: None))
    await asyncio.to_thread(prompts.reached.wait, 10)
    reports: list[StepReport] = []
    second = asyncio.create_task(replica.edit(an_order(), reports.append))
    await asyncio.sleep(0)
    second.cancel()
    prompts.go.set()
    await first
    await replica.edit(an_order(), lambda _: None)
    assert not reports
    assert second.cancelled()


class GatedForward(WatchedForward):
    """Counts passes; stands still in one of them until it is let go."""

    def __init__(self, forward: FluxForward, gate_at: int) -> None:
        super().__init__(forward)
        self.gate_at = gate_at
        self.reached, self.go = threading.Event(), threading.Event()

    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None] = lambda _: None) -> list[Tensor]:
        if len(self.calls) == self.gate_at:
            self.reached.set()
            assert self.go.wait(10)
        return super().__call__(segments, on_block)


@pytest.mark.parametrize("work", ["edit", "record", "warm"])
async def test_cancelled_work_stops_at_its_next_step(builtin_kind: Checkpoint, work: str) -> None:
    forward = GatedForward(builtin_kind.forward, gate_at=2)
    limits = BatchLimits(rows=1)  # a step of a lane at a time
    replica = LocalReplica(an_editor(replace(builtin_kind, forward=forward)), "cpu", limits=limits)
    call: Coroutine[Any, Any, Any]
    if work == "warm":
        call = replica.warm(WarmOrder(id="warm", picture=pixels_of(random_picture()), steps=9), lambda _: None)
    else:
        call = replica.edit(an_order(steps=9, cache="off" if work == "edit" else "auto"), lambda _: None)
    task = asyncio.create_task(call)
    await asyncio.to_thread(forward.reached.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    forward.go.set()
    await replica.edit(an_order(steps=1, cache="off"), lambda _: None)  # after which the runner is past the other one
    assert len(forward.calls) == 3 + 1
    assert await replica.pin(["x"]) == 0
    await replica.close()


async def test_calibration_learns_the_machine(replica: LocalReplica) -> None:
    before = replica.predicted_seconds(an_order())
    await replica.calibrate()
    assert replica.predicted_seconds(an_order()) != before


async def test_closing_gives_pins_back(builtin_kind: Checkpoint) -> None:
    one_template_bytes = 4 * 2 * 2 * 64 * 2 * 16 * 4
    store = MemoryStore(one_template_bytes)
    replica = LocalReplica(an_editor(builtin_kind, store), "cpu")
    reports: list[WarmReport] = []
    await replica.warm(WarmOrder(id="warm", picture=pixels_of(random_picture())), reports.append)
    assert await replica.pin([reports[0].key]) == 1
    await replica.close()
    store.create("other", TemplateSize(1, 1, one_template_bytes)).abort()  # refused while a lease is held


async def test_closing_fails_what_waits(builtin_kind: Checkpoint) -> None:
    prompts = StoppedPrompts(builtin_kind.prompts)
    replica = LocalReplica(an_editor(replace(builtin_kind, prompts=prompts)), "cpu")
    tasks = [asyncio.create_task(replica.edit(an_order(prompt="stop"), lambda _: None)) for _ in range(3)]
    await asyncio.to_thread(prompts.reached.wait, 10)
    closing = asyncio.create_task(replica.close())
    results = await asyncio.gather(*tasks, return_exceptions=True)
    prompts.go.set()
    await closing
    assert [str(result) for result in results] == 3 * ["the replica was closed"]
    with pytest.raises(ReplicaError, match="the replica was closed"):
        await replica.edit(an_order(), lambda _: None)


async def test_predicted_seconds_grow_with_the_work(replica: LocalReplica) -> None:
    await replica.calibrate()
    everything = np.ones(64 * 64, np.uint8).tobytes()
    small, large, dense, short = (
        replica.predicted_seconds(an_order(**settings))
        for settings in ({}, {"mask": everything}, {"cache": "off"}, {"steps": 1})
    )
    assert 0 < short < small < large <= dense
    assert small < 60


@pytest.mark.parametrize(
    ("kind", "output"), [("PNG", Output("png")), ("WEBP", Output("webp")), ("JPEG", Output("jpeg"))]
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
async def test_files(kind: str, output: Output, mode: str) -> None:
    picture = random_picture(40, 30, mode)
    picture.info["icc_profile"] = b"a profile"
    file = opened(encode_picture(picture, output))
    assert (file.format, file.size) == (kind, (40, 30))
    assert file.info["icc_profile"] == b"a profile"
    if kind != "JPEG":
        assert np.array_equal(np.asarray(file.convert(mode)), pixels(picture))


async def test_output_quality_and_size() -> None:
    picture = random_picture(40, 30)
    sizes = [len(encode_picture(picture, Output("jpeg", quality=quality))) for quality in (0, 30, 100)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]
    assert opened(encode_picture(picture, Output("png", size=(80, 60)))).size == (80, 60)
