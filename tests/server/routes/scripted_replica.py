"""A replica that the test moves on by hand: for what depends on timing and on failures."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from instgenie.balancer.step_costs import StepCosts, TokenSeconds
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    PhaseTimings,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)
from tests.server.intake.pictures import encoded

STEPS = 4
MODEL = ModelCard(
    name="scripted",
    revision="1",
    dtype="float32",
    device="cpu",
    steps=STEPS,
    guidance=1.0,
    distilled=True,
    canvas_pixels=64,
    patch=16,
)
TIMINGS = PhaseTimings(
    queue_ms=1,
    encode_ms=2,
    record_ms=0,
    denoise_ms=4,
    decode_ms=5,
    cache="hit",
    tier="host",
    steps=STEPS,
    dense_steps=0,
    tokens_active=5,
    tokens_total=16,
)
COSTS = StepCosts(base_seconds=0.01, masked=TokenSeconds(0.001), full=TokenSeconds(0.001), loads={})


def outcome_of(order: EditOrder) -> EditOutcome:
    """A picture of one pixel, of another colour for each seed and prompt."""
    colour = hashlib.sha256(f"{order.seed} {order.prompt}".encode()).digest()[:3]
    pixel = Image.fromarray(np.frombuffer(colour, np.uint8).reshape(1, 1, 3))
    return EditOutcome(encoded(pixel, order.output.format), 1, 1, TIMINGS)


@dataclass(eq=False, slots=True)
class ScriptedEdit:
    """An edit that runs; `stopped` once it does not any more, `cancelled` if its caller has gone."""

    order: EditOrder
    report: Callable[[StepReport], None]
    outcome: asyncio.Future[EditOutcome]
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    def step(self, step: int, preview: bytes | None = None) -> None:
        self.report(StepReport(step, STEPS, preview))

    def succeed(self) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome_of(self.order))

    def fail(self, error: Exception) -> None:
        self.outcome.set_exception(error)


@dataclass(eq=False, slots=True)
class ScriptedWarm:
    """A template that is being recorded."""

    order: WarmOrder
    report: Callable[[WarmReport], None]
    end: asyncio.Future[None]
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    def window(self, number: int, windows: int, key: str, *, refused: bool = False) -> None:
        outcome = "refused" if refused else "cold"
        self.report(WarmReport(number, windows, (0, 0, 1, 1), key, 0 if refused else 100, outcome))  # type: ignore[arg-type]

    def succeed(self) -> None:
        if not self.end.done():
            self.end.set_result(None)


class ScriptedReplica:
    """Calls are put into `edits` and `warms`, and run until the test lets them end; or at once, where `at_once`."""

    def __init__(self, seconds: float = 1.0, *, at_once: bool = False, model: ModelCard = MODEL) -> None:
        self.seconds, self.at_once, self.model = seconds, at_once, model
        self.edits: asyncio.Queue[ScriptedEdit] = asyncio.Queue()
        self.warms: asyncio.Queue[ScriptedWarm] = asyncio.Queue()
        self.pinned: set[str] = set()
        self.forgotten: list[str] = []
        self.records: dict[str, HeldTemplate] = {}
        self.step_age_seconds = 0.0
        self._running: set[ScriptedEdit | ScriptedWarm] = set()

    @property
    def costs(self) -> StepCosts:
        return COSTS

    def predicted_seconds(self, order: EditOrder) -> float:
        return self.seconds

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        if self.at_once:
            for step in range(STEPS + 1):
                report(StepReport(step, STEPS))
            return outcome_of(order)
        edit = ScriptedEdit(order, report, asyncio.get_running_loop().create_future())
        self._running.add(edit)
        self.edits.put_nowait(edit)
        try:
            return await edit.outcome
        except asyncio.CancelledError:
            edit.cancelled = True
            raise
        finally:
            self._running.discard(edit)
            edit.stopped.set()

    def running_edits(self) -> list[ScriptedEdit]:
        """Those that have not ended."""
        return [call for call in self._running if isinstance(call, ScriptedEdit)]

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        def told(window: WarmReport) -> None:
            if window.outcome != "refused":
                self.records[window.key] = HeldTemplate(window.num_bytes, 0)
            report(window)

        warm = ScriptedWarm(order, told, asyncio.get_running_loop().create_future())
        self._running.add(warm)
        self.warms.put_nowait(warm)
        try:
            await warm.end
        except asyncio.CancelledError:
            warm.cancelled = True
            raise
        finally:
            self._running.discard(warm)
            warm.stopped.set()

    async def pin(self, keys: Iterable[str]) -> int:
        keys = set(keys) & self.records.keys()
        self.pinned |= keys
        return len(keys)

    async def unpin(self, keys: Iterable[str]) -> None:
        self.pinned -= set(keys)

    async def forget(self, keys: Iterable[str]) -> None:
        keys = list(keys)
        await self.unpin(keys)
        self.evict(*keys)
        self.forgotten += keys

    def evict(self, *keys: str) -> None:
        """Drop records as a full cache does."""
        for key in keys:
            self.records.pop(key, None)

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        return {key: self.records.get(key, HeldTemplate(None, 0)) for key in keys}

    async def stats(self) -> ReplicaStats:
        return ReplicaStats(running=len(self._running), step_age_seconds=self.step_age_seconds)

    async def drain(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def let_go(self) -> None:
        """Let everything end, so that a server need not wait for it when it stops."""
        self.at_once = True
        for call in list(self._running):
            call.succeed()
