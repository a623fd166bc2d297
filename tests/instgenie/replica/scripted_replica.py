"""A replica without a model, whose edits go as a test says; and orders for it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from instgenie.balancer.step_costs import StepCosts
from instgenie.edit_cost import EditCost
from instgenie.order_work import predicted_work
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    PhaseTimings,
    Pixels,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)

CARD = ModelCard(
    name="scripted",
    revision="r1",
    dtype="float32",
    device="cpu",
    steps=4,
    guidance=2.0,
    distilled=False,
    canvas_pixels=64,
    patch=8,
)
TIMINGS = PhaseTimings(
    queue_ms=1.0,
    encode_ms=2.0,
    record_ms=3.0,
    denoise_ms=4.0,
    decode_ms=5.0,
    cache="hit",
    steps=4,
    dense_steps=0,
    tokens_active=10,
    tokens_total=64,
    tier="host",
    stall_ms=0.5,
    batch=2.5,
)
OUTCOME = EditOutcome(b"the picture", 8, 4, TIMINGS)
WINDOW = WarmReport(1, 2, (0, 0, 8, 4), "key", 100, "cold")


def an_order(id: str = "edit", **settings: Any) -> EditOrder:  # noqa: A002 - the field's name
    """An edit of half of a tiny picture."""
    values: dict[str, Any] = {
        "picture": Pixels(8, 4, "RGB", bytes(range(96))),
        "mask": b"\x01" * 16 + bytes(16),
        "prompt": "a red apple",
        "seed": 0,
    }
    return EditOrder(id=id, **(values | settings))


def a_warm_order(id: str = "warm", **settings: Any) -> WarmOrder:  # noqa: A002 - the field's name
    """A warm-up of a tiny picture."""
    return WarmOrder(id=id, **({"picture": Pixels(8, 4, "RGBA", bytes(128))} | settings))


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what nobody tells of, 10 seconds at most."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)


@dataclass(slots=True, eq=False)
class Scripted:
    """An order that the replica works on: `end.set_result` or `end.set_exception` ends it."""

    order: EditOrder | WarmOrder
    report: Callable[[Any], None]
    end: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, step: int, preview: bytes | None = None) -> None:
        """Report a step of four."""
        self.report(StepReport(step, 4, preview))


class ScriptedReplica:
    """A `Replica`. `begun` waits for an order that came."""

    def __init__(self, seconds_per_token: float = 0.25) -> None:
        self.model = CARD
        self.cost = EditCost(seconds_per_token)
        self.asked: list[tuple[str, list[str]]] = []
        self.begins: Counter[str] = Counter()
        self.error: Exception | None = None  # of questions about templates
        self.is_draining = False
        self.costs: StepCosts  # where a test sets them
        self._working: dict[str, Scripted] = {}
        self._came = asyncio.Condition()

    async def begun(self, order: str) -> Scripted:
        """The order, once it is here."""
        async with self._came, asyncio.timeout(10):
            await self._came.wait_for(lambda: order in self._working)
        return self._working[order]

    def predicted_seconds(self, order: EditOrder) -> float:
        """See `Replica`."""
        return self.cost.predict(predicted_work(order, self.model))

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`."""
        outcome: EditOutcome = await self._work(Scripted(order, report))
        return outcome

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """See `Replica`."""
        await self._work(Scripted(order, report))

    async def pin(self, keys: Iterable[str]) -> int:
        """See `Replica`."""
        return len(self._ask("pin", keys))

    async def unpin(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        self._ask("unpin", keys)

    async def forget(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        self._ask("forget", keys)

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """See `Replica`."""
        return {key: HeldTemplate(None if key == "none" else len(key), 3) for key in self._ask("held", keys)}

    async def stats(self) -> ReplicaStats:
        """See `Replica`."""
        return ReplicaStats(running=2, busy_seconds=1.5)

    async def drain(self) -> None:
        """See `Replica`."""
        self.is_draining = True

    async def close(self) -> None:
        """See `Replica`."""

    async def _work(self, scripted: Scripted) -> Any:
        self.begins[scripted.order.id] += 1
        async with self._came:
            self._working[scripted.order.id] = scripted
            self._came.notify_all()
        try:
            return await scripted.end
        except asyncio.CancelledError:
            scripted.cancelled.set()
            raise
        finally:
            del self._working[scripted.order.id]

    def _ask(self, what: str, keys: Iterable[str]) -> list[str]:
        wanted = sorted(keys)
        self.asked.append((what, wanted))
        if self.error is not None:
            raise self.error
        return wanted
