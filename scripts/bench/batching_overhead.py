"""What a step costs beside its forward: scheduling, putting the batch together, telling what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.batching_load import equal_edits, template_pictures
from bench.batching_play import saturate
from bench.batching_spans import Gap, find_gaps, read_events
from bench.batching_systems import Workplace, batch_of
from instgenie.tracing import open_trace

BATCHES = (1, 4, 8)
TEMPLATES = 4
SHARE = 0.11
TARGET_MS = 0.5  # of `Gap.before_step` at the largest batch
PARTS = tuple(part.name for part in fields(Gap))


@dataclass(frozen=True, slots=True)
class OverheadRow:
    """Milliseconds between two forwards of a batch of so many edits, by part as in `Gap`.

    Attributes:
        gaps: that were looked at; those with a picture to encode or decode are not.
        before_step_ms, before_step_p95_ms: of each gap's `before_step`.
        forward_ms: of the forwards, median.
    """

    batch: int
    gaps: int
    median_ms: dict[str, float]
    p95_ms: dict[str, float]
    before_step_ms: float
    before_step_p95_ms: float
    total_ms: float
    forward_ms: float


async def measure(workplace: Workplace, folder: Path, steps: int, edits: int) -> list[OverheadRow]:
    """Keep batches full of edits with masks of 0.11, whose templates are in memory.

    Args:
        folder: for traces.
        edits: that are done at each batch size, for each of its places.
    """
    pictures = template_pictures(TEMPLATES)
    rows = []
    for batch in BATCHES:
        orders = equal_edits(pictures, edits * batch, SHARE, steps)
        path = folder / f"overhead-{batch}.json"
        async with workplace.replica(batch_of(batch), pictures, steps) as replica:
            with open_trace(path):
                await saturate(replica.edit, orders, in_flight=batch)
        events = read_events(path)
        forwards = [e.end_ms - e.start_ms for e in events if e.name == "forward" and e.values["segments"] >= batch]
        rows.append(summary(batch, find_gaps(events, batch), float(np.median(forwards))))
    return rows


def summary(batch: int, gaps: Sequence[Gap], forward_ms: float) -> OverheadRow:
    """What these gaps have in common.

    Raises:
        ValueError: there are none.
    """
    if not gaps:
        raise ValueError(f"no two steps of {batch} edits followed each other")
    of_part = {part: [getattr(gap, part) for gap in gaps] for part in PARTS}
    before_step = [gap.before_step for gap in gaps]
    return OverheadRow(
        batch=batch,
        gaps=len(gaps),
        median_ms={part: float(np.median(times)) for part, times in of_part.items()},
        p95_ms={part: float(np.percentile(times, 95)) for part, times in of_part.items()},
        before_step_ms=float(np.median(before_step)),
        before_step_p95_ms=float(np.percentile(before_step, 95)),
        total_ms=float(np.median([gap.total for gap in gaps])),
        forward_ms=forward_ms,
    )


def table(rows: Sequence[OverheadRow]) -> Table:
    """The figures for people."""
    title = f"between two forwards, ms: median (P95); before: the last three, target {TARGET_MS:g}"
    shown = Table(title=title)
    for column in ("edits", *PARTS, "before", "all", "forward"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            str(row.batch),
            *(f"{row.median_ms[part]:.2f} ({row.p95_ms[part]:.2f})" for part in PARTS),
            f"{row.before_step_ms:.2f} ({row.before_step_p95_ms:.2f})",
            f"{row.total_ms:.2f}",
            f"{row.forward_ms:.0f}",
        )
    return shown
