"""A replica in this process whose computation and store are watched, and can be held or made to fail."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from instgenie.checkpoint import Checkpoint
from instgenie.correction import DifferenceRecorder
from instgenie.editor import Editor
from instgenie.orders import EditOrder, EditOutcome, Pixels, ReplicaStats, StepReport, WarmOrder, WarmReport
from instgenie.replica.job import EditJob
from instgenie.replica.local_replica import LocalReplica
from instgenie.sched.limits import BatchLimits
from instgenie.sched.task import EditTask
from tests.instgenie.batches import CountedStore, HookedForward, Rider
from tests.instgenie.edits import a_request, an_editor, random_picture

T = TypeVar("T")
SECONDS = 20.0  # that a test waits for what has to come


class Gate:
    """Holds the thread that comes to it, once, until it is opened."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def hold(self, *_: object) -> None:
        """Come to it."""
        self._reached.set()
        assert self._open.wait(SECONDS)

    async def reached(self) -> None:
        """Until a thread is held."""
        assert await asyncio.to_thread(self._reached.wait, SECONDS)

    def open(self) -> None:
        """Let go of it, and of who comes later."""
        self._open.set()


@dataclass
class Rig:
    """A replica and what it works with."""

    replica: LocalReplica
    editor: Editor
    forward: HookedForward
    store: CountedStore
    _submitted: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        submit = self.replica._runner.submit

        def noted(job: EditJob, task: EditTask) -> None:
            submit(job, task)
            self._submitted += 1
            self._news.set()

        self.replica._runner.submit = noted  # type: ignore[method-assign]

    async def submitted(self, count: int) -> None:
        """Until so many edits were prepared, and handed to the runner."""
        async with asyncio.timeout(SECONDS):
            while self._submitted < count:
                self._news.clear()
                await self._news.wait()

    def hold_at(self, call: int) -> Gate:
        """Have the runner held before the pass of that number, counted from now on, from 0."""
        gate, first = Gate(), len(self.forward.calls) + call

        def before(_: object) -> None:
            if len(self.forward.calls) == first:
                gate.hold()

        self.forward.before = before
        return gate

    def edit(self, rider: Rider, report: Callable[[StepReport], None] = lambda _: None, **settings: Any) -> Task:
        """Begin an edit."""
        return asyncio.create_task(self.replica.edit(order_of(rider, **settings), report))

    async def warm(self, picture: int = 0, **settings: Any) -> list[WarmReport]:
        """Record a template."""
        reports: list[WarmReport] = []
        order = WarmOrder(id="warm", picture=pixels_of(random_picture(seed=picture)), **settings)
        await self.replica.warm(order, reports.append)
        return reports

    async def until(self, is_so: Callable[[ReplicaStats], bool]) -> ReplicaStats:
        """Wait until the replica's numbers are so."""
        async with asyncio.timeout(SECONDS):
            while not is_so(stats := await self.replica.stats()):
                await asyncio.to_thread(self.pause)
        return stats

    async def settled(self) -> ReplicaStats:
        """Wait until all that was begun is over."""

        def is_over(stats: ReplicaStats) -> bool:
            return not (stats.waiting or stats.running or stats.finishing or stats.lanes)

        await asyncio.to_thread(self.pause)  # after which the runner has seen all that it was told
        await self.until(is_over)
        await self.answered()
        await asyncio.to_thread(self.drain_records)
        await asyncio.to_thread(self.pause)  # after which it has done what was left of its turn, too
        return await self.replica.stats()

    async def answered(self) -> None:
        """Until the store has answered all that the runner has asked it so far."""
        await asyncio.to_thread(self.replica._runner._lanes._asking.submit(lambda: None).result)

    def pause(self) -> None:
        """Until the runner's thread has come to its mailbox."""
        passed = threading.Event()
        self.replica._runner._mailbox.post(passed.set)
        assert passed.wait(SECONDS)

    def drain_records(self) -> None:
        """Until all that lanes recorded so far was offered to the store."""
        passed = threading.Event()
        self.replica._runner._lanes._queue.add(passed.set)
        assert passed.wait(SECONDS)

    @property
    def recorded(self) -> int:
        """Passes of lanes, of one step each."""
        recorders = (segment.recorder for segments, _ in self.forward.calls for segment in segments)
        return sum(one is not None and not isinstance(one, DifferenceRecorder) for one in recorders)


Task = asyncio.Task[EditOutcome]


@asynccontextmanager
async def a_rig(
    checkpoint: Checkpoint,
    store: CountedStore | None = None,
    *,
    kept_bytes: int | None = None,
    limits: BatchLimits | None = None,
    **settings: Any,
) -> AsyncIterator[Rig]:
    """A replica, which is closed in the end: then nothing of the store is open, and no thread is left.

    Args:
        limits: None is as many steps of a lane in one pass as there is room for, as on CUDA.
        kept_bytes: what lanes may keep steps in; None is the default.
        settings: of the editor.
    """
    before = set(threading.enumerate())
    store, forward = store or CountedStore(), HookedForward(checkpoint.forward)
    editor = an_editor(replace(checkpoint, forward=forward), store, **settings)
    if kept_bytes is not None:
        editor.shelf.loader.budget_bytes = kept_bytes
    replica = LocalReplica(editor, "cpu", limits=limits or BatchLimits())
    try:
        yield Rig(replica, editor, forward, store)
    finally:
        await replica.close()
    assert not store.leases
    assert not store.writers
    ours = ("runner", "records", "prepare", "pictures", "templates", "loader")
    left = [thread.name for thread in threading.enumerate() if thread not in before and thread.name.startswith(ours)]
    assert not left


def run(test: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it on a loop of its own."""
    return asyncio.run(asyncio.wait_for(test(), 6 * SECONDS))


def pixels_of(picture: Image.Image) -> Pixels:
    """The picture as it travels."""
    assert picture.mode in ("RGB", "RGBA")
    return Pixels(picture.width, picture.height, picture.mode, picture.tobytes())  # type: ignore[arg-type]


def an_order(**settings: Any) -> EditOrder:
    """The edit of `a_request`."""
    request = a_request()
    values: dict[str, Any] = {
        "id": "edit",
        "picture": pixels_of(request.picture),
        "mask": request.mask.astype(np.uint8).tobytes(),
        "prompt": request.prompt,
        "seed": 0,
        "halo": 0,
    }
    return EditOrder(**(values | settings))


def order_of(rider: Rider, **settings: Any) -> EditOrder:
    """What the rider asks for."""
    request = rider.request
    values: dict[str, Any] = {
        "picture": pixels_of(request.picture),
        "mask": request.mask.astype(np.uint8).tobytes(),
        "prompt": rider.prompt,
        "seed": rider.seed,
        "steps": rider.steps,
        "guidance": rider.guidance,
        "strength": rider.strength,
        "refreshes": rider.refreshes,
        "step_cache": rider.step_cache,
        "halo": rider.halo,
        "cache": "auto" if request.cached else "off",
    }
    return an_order(**(values | settings))


def opened(image: bytes) -> Image.Image:
    """The picture in a file."""
    return Image.open(io.BytesIO(image))


def levels_between(outcome: EditOutcome, picture: Image.Image) -> int:
    """How far the farthest pixel of an outcome is from a picture's."""
    return int(np.abs(np.asarray(opened(outcome.image)).astype(int) - np.asarray(picture)).max())
