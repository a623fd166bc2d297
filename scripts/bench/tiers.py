"""An edit of the embedded model by where its template's records are, against the dense edit.

    python scripts/bench/tiers.py [--minutes 2] [--model FOLDER] [--out FOLDER]

One held-out case. Cold edits have a template that nobody saw before, and make its records; in one batch is how a
replica does it, recorded first how `instgenie edit --cache on` does. Warm from disk is the first edit after the store
was opened, and the system's own memory of the files was dropped; all records are taken, none is computed rather than
waited for. Prompts and pictures were encoded before. A round makes every edit once, and `of dense` is the median of the
ratios to the dense edit of the same round.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.harness import Deadline, Spread, arguments, ratios, show, timed_ms, write_results
from bench.peers_models import embedded_requests
from bench.tiers_ways import Way, ways
from instgenie.checkpoint import BUILTIN, Checkpoint
from instgenie.load_model import load_model
from instgenie.orders import ServingTier
from instgenie.records import dtype_name
from instgenie.request import EditRequest, EditTimings

HOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Row:
    """A way's figures.

    Attributes:
        tier: where the edit found its records; None: nowhere.
        ms: of the edit.
        of_dense: against the dense edit.
        record_ms, stall_ms: of the median edit, spent on recording before its steps and on waiting for records.
    """

    way: str
    tier: ServingTier | None
    ms: Spread
    of_dense: float
    record_ms: float
    stall_ms: float


def measure(
    checkpoint: Checkpoint, request: EditRequest, folder: Path, deadline: Deadline, host_bytes: int = HOST_BYTES
) -> list[Row]:
    """Rounds of edits, one in each way."""
    with ways(checkpoint, request, folder, host_bytes) as every:
        found: dict[str, list[tuple[float, EditTimings]]] = {way.name: [] for way in every}
        for way in every:
            _edit(way)
        for _ in deadline.rounds():
            for way in every:
                found[way.name].append(_edit(way))
    dense_ms = [ms for ms, _ in found[every[0].name]]
    return [_row(way, found[way.name], dense_ms) for way in every]


def _edit(way: Way) -> tuple[float, EditTimings]:
    way.before()
    timings: list[EditTimings] = []
    ms = timed_ms(lambda: timings.append(way.edit()))
    way.after()
    assert timings[0].tier == way.tier, f"{way.name}: the records came from {timings[0].tier}"
    return ms, timings[0]


def _row(way: Way, edits: Sequence[tuple[float, EditTimings]], dense_ms: Sequence[float]) -> Row:
    ms = [edit for edit, _ in edits]
    return Row(
        way=way.name,
        tier=way.tier,
        ms=Spread.of(ms),
        of_dense=median(ratios(ms, dense_ms)),
        record_ms=median(timings.record_ms for _, timings in edits),
        stall_ms=median(timings.stall_ms for _, timings in edits),
    )


def table(rows: Sequence[Row]) -> Table:
    """The figures for people."""
    shown = Table(title="an edit by where its template's records are")
    for column in ("", "ms", "P95", "of dense", "recording ms", "waiting ms"):
        shown.add_column(column, justify="right" if column else "left")
    for row in rows:
        shown.add_row(
            row.way,
            f"{row.ms.median:.0f}",
            f"{row.ms.p95:.0f}",
            f"{row.of_dense:.2f}",
            f"{row.record_ms:.0f}",
            f"{row.stall_ms:.0f}",
        )
    return shown


def main() -> None:
    parser = arguments(__doc__, "tiers", 2)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    options = parser.parse_args()
    deadline = Deadline(options.minutes)
    checkpoint = load_model(options.model)
    (request,) = embedded_requests(checkpoint, 1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(checkpoint, request, Path(folder), deadline)
    about = {
        "model": checkpoint.settings.name,
        "dtype": dtype_name(checkpoint.forward.dtype),
        "steps": checkpoint.settings.steps,
        "mask": float(request.mask.mean()),
        "minutes": options.minutes,
    }
    write_results(options.out, "tiers", about, [asdict(row) for row in rows])
    show(table(rows))


if __name__ == "__main__":
    main()
