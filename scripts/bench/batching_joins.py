"""Join latency: steps that a running batch takes between an edit's arrival and the first step that it takes part in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from rich.table import Table

from bench.batching_load import equal_edits, template_pictures
from bench.batching_spans import Join, find_join, read_events
from bench.batching_systems import Workplace, batch_of
from instgenie.orders import EditOrder, StepReport
from instgenie.replica.local_replica import LocalReplica
from instgenie.tracing import current_tracer, open_trace

BESIDE = (1, 3, 7)
TEMPLATES = 2
SHARE = 0.11
_PROBE_STEPS = 2
_STEPS_LEFT = 8  # of the edits beside a probe: with fewer, one of them may end before it
_MOST_ROUNDS = 20
_ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True)
class JoinRow:
    """Joins beside so many running edits; medians and worst cases.

    Attributes:
        steps: of the others that began between an arrival and the first step of the edit that came.
        steps_encoded: of them, those that began after it was encoded.
        ms: from an arrival to the start of the first step.
        step_ms: of the others' steps meanwhile, median.
    """

    beside: int
    joins: int
    steps: float
    worst_steps: int
    steps_encoded: float
    worst_steps_encoded: int
    ms: float
    worst_ms: float
    step_ms: float


async def measure(workplace: Workplace, folder: Path, steps: int, joins: int) -> list[JoinRow]:
    """Let edits arrive at any time while others run.

    Args:
        folder: for traces.
        steps: of the edits that run.
        joins: to look at beside each number of others, at least.
    Raises:
        RuntimeError: edits end before one can join them.
    """
    pictures = template_pictures(TEMPLATES)
    probe = replace(equal_edits(pictures, 1, SHARE, steps)[0], strength=_PROBE_STEPS / steps)
    rng = np.random.default_rng(0)
    rows = []
    async with workplace.replica(batch_of(max(BESIDE) + 1), pictures, steps) as replica:
        for beside in BESIDE:
            orders = equal_edits(pictures, beside, SHARE, steps)
            found: list[Join] = []
            for number in range(_MOST_ROUNDS):
                path = folder / f"join-{beside}-{number}.json"
                with open_trace(path):
                    await _probe(replica, orders, probe, rng)
                found += _joins(path, beside)
                if len(found) >= joins:
                    break
            if not found:
                raise RuntimeError(f"no edit joined {beside} others: they ended before")
            rows.append(summary(beside, found))
    return rows


def summary(beside: int, joins: Sequence[Join]) -> JoinRow:
    """What these joins have in common."""
    return JoinRow(
        beside=beside,
        joins=len(joins),
        steps=median(join.steps for join in joins),
        worst_steps=max(join.steps for join in joins),
        steps_encoded=median(join.steps_encoded for join in joins),
        worst_steps_encoded=max(join.steps_encoded for join in joins),
        ms=median(join.ms for join in joins),
        worst_ms=max(join.ms for join in joins),
        step_ms=median(join.step_ms for join in joins),
    )


def _joins(trace: Path, beside: int) -> Iterator[Join]:
    events = read_events(trace)
    for event in events:
        if event.name == _ARRIVAL and (join := find_join(events, event.start_ms, beside)) is not None:
            yield join


async def _probe(
    replica: LocalReplica, orders: Sequence[EditOrder], probe: EditOrder, rng: np.random.Generator
) -> None:
    """Run the edits, and once they all run send the probe again and again, at any time of a step."""
    progress = _Progress(len(orders))
    async with asyncio.TaskGroup() as group:
        for number, order in enumerate(orders):
            group.create_task(replica.edit(order, partial(progress.report, number)))
        await progress.all_run.wait()
        while progress.steps_left >= _STEPS_LEFT:
            await asyncio.sleep(rng.random() * progress.step_seconds)
            current_tracer().event(_ARRIVAL)
            await replica.edit(probe, lambda _: None)


class _Progress:
    """How far some edits are.

    Attributes:
        all_run: once each of them has taken a step.
        step_seconds: that the last step took, about.
    """

    def __init__(self, edits: int) -> None:
        self._left: dict[int, int] = {}
        self._edits = edits
        self._last = 0.0
        self.all_run = asyncio.Event()
        self.step_seconds = 0.0

    @property
    def steps_left(self) -> int:
        """Of the edit that has the fewest."""
        return min(self._left.values())

    def report(self, number: int, report: StepReport) -> None:
        """What an edit tells."""
        if not report.step:
            return
        self._left[number] = report.steps - report.step
        if number == 0:
            now = asyncio.get_running_loop().time()
            self.step_seconds, self._last = now - (self._last or now), now
        if len(self._left) == self._edits:
            self.all_run.set()


def table(rows: Sequence[JoinRow]) -> Table:
    """The figures for people."""
    shown = Table(title="steps of the batch before an edit joins it: median, worst")
    for column in ("running", "joins", "from arrival", "once encoded", "ms", "step ms"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            str(row.beside),
            str(row.joins),
            f"{row.steps:g}, {row.worst_steps}",
            f"{row.steps_encoded:g}, {row.worst_steps_encoded}",
            f"{row.ms:.0f}, {row.worst_ms:.0f}",
            f"{row.step_ms:.0f}",
        )
    return shown
