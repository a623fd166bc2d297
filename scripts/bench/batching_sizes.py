"""Throughput against the size of batches, by mask: the time of steps of full batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.batching_load import equal_edits, template_pictures
from bench.batching_play import saturate
from bench.batching_spans import read_events, step_times
from bench.batching_systems import Workplace, batch_of
from instgenie.orders import EditOrder, EditOutcome, StepReport
from instgenie.replica.local_replica import LocalReplica
from instgenie.tracing import open_trace

BATCHES = (1, 2, 4, 8)
SHARES = (0.05, 0.11, 0.20, 0.50)
TEMPLATES = 4


@dataclass(frozen=True, slots=True)
class SizeRow:
    """Full batches of so many edits.

    Attributes:
        share: of the picture, under the mask.
        active: image tokens that an edit computes, of all.
        steps: that were timed.
        step_ms: of a step, median.
        edit_steps_per_second: of the batch.
        of_single: that, of what single edits with this mask have.
    """

    share: float
    batch: int
    active: float
    steps: int
    step_ms: float
    edit_steps_per_second: float
    of_single: float


async def measure(workplace: Workplace, folder: Path, steps: int, rounds: int) -> list[SizeRow]:
    """Run batches of each size with masks of each size, in turn, several times.

    Args:
        folder: for traces.
        steps: of an edit.
    """
    pictures = template_pictures(TEMPLATES)
    times: dict[tuple[float, int], list[float]] = defaultdict(list)
    active: dict[tuple[float, int], float] = {}
    async with AsyncExitStack() as stack:
        replicas = {
            batch: await stack.enter_async_context(workplace.replica(batch_of(batch), pictures, steps))
            for batch in BATCHES
        }
        for number in track(range(rounds), "rounds", console=Console(stderr=True)):
            for share in SHARES:
                for batch, replica in replicas.items():
                    orders = equal_edits(pictures, batch, share, steps)
                    path = folder / f"size-{share}-{batch}-{number}.json"
                    active[share, batch] = await _run(replica, orders, path)
                    times[share, batch] += step_times(read_events(path), batch)
    return [size_row(share, batch, active[share, batch], times) for share in SHARES for batch in BATCHES]


async def _run(replica: LocalReplica, orders: Sequence[EditOrder], trace: Path) -> float:
    """Run them at the same time; the share of tokens that they computed."""
    shares: list[float] = []

    async def edit(order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        outcome = await replica.edit(order, report)
        shares.append(outcome.timings.tokens_active / outcome.timings.tokens_total)
        return outcome

    with open_trace(trace):
        await saturate(edit, orders, in_flight=len(orders))
    return fmean(shares)


def size_row(share: float, batch: int, active: float, times: Mapping[tuple[float, int], Sequence[float]]) -> SizeRow:
    """A row.

    Args:
        times: ms of steps, by share and batch.

    Raises:
        ValueError: no step was one of a full batch.
    """
    if not times[share, batch]:
        raise ValueError(f"no step had {batch} edits: they take too few steps to run at the same time")
    step_ms = median(times[share, batch])
    return SizeRow(
        share=share,
        batch=batch,
        active=active,
        steps=len(times[share, batch]),
        step_ms=step_ms,
        edit_steps_per_second=1000 * batch / step_ms,
        of_single=batch * median(times[share, BATCHES[0]]) / step_ms,
    )


def table(rows: Sequence[SizeRow]) -> Table:
    """The figures for people."""
    shown = Table(title="throughput against batch size")
    for column in ("mask", "tokens", "batch", "step ms", "edit steps/s", "of batch 1"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            f"{row.share:.2f}",
            f"{row.active:.0%}",
            str(row.batch),
            f"{row.step_ms:.0f}",
            f"{row.edit_steps_per_second:.1f}",
            f"{row.of_single:.2f}",
        )
    return shown
