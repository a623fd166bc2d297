"""The same edits by diffusers, by its step caches, by a strawman and by ours, side by side.

    python scripts/bench/peers.py [--minutes 10] [--only embedded,medium] [--model FOLDER] [--out FOLDER]

Two models: the embedded one with held-out cases, edited from picture to picture; and a Flux transformer of 71M random
weights and 1,024 tokens with random pictures, which says what a larger model takes, and nothing of pictures. Every
system gets the same weights, pictures, masks, prompts, noise and steps. A round is an edit by every system, and takes a
minute or two on two cores; those with batches make the case's edit and those of the next three. Prompts and pictures
were encoded before. Ours reads records from this process's memory; recording them is in no row (`tiers.py` has it).

`speed-up` is the median over the rounds of the first row's time, diffusers' pipeline with an edit at a time, to the
system's. PSNR is inside the mask, to what that pipeline makes of the case in float32, every token computed at every
step. `computed` is the share of the passes that computed the attention of the last block.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.harness import Deadline, Spread, arguments, ratios, show, write_results
from bench.peers_models import batch_from, embedded_requests, medium_checkpoint, medium_requests
from bench.peers_pipeline import DiffusersEdits
from bench.peers_plot import plot
from bench.peers_systems import REFERENCE, Group, System, systems
from builtin_recipe.measures import psnr_in_mask
from builtin_recipe.scenes import Pixels
from instgenie.checkpoint import BUILTIN, Checkpoint
from instgenie.load_model import load_model
from instgenie.records import dtype_name
from instgenie.request import EditRequest

MODELS = ("embedded", "medium")
MAX_CASES = 64
# Of the medium model, whose rows take long and whose pictures say nothing.
MEDIUM_ROWS = (
    REFERENCE,
    "diffusers, static batches of 4",
    "TaylorSeer, 1 step in 3",
    "TaylorSeer, 1 step in 5",
    "masked tokens alone, no records",
    "ours, dense",
    "ours",
    "ours, int8",
    "ours, batches of 4",
    "ours, step cache 2",
    "ours, step cache 3",
)


@dataclass(slots=True)
class _Measured:
    seconds: list[float] = field(default_factory=list)  # an edit, in each round
    psnr_db: list[float] = field(default_factory=list)
    attended: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Row:
    """A system's figures.

    Attributes:
        seconds: of an edit.
        speedup: the median.
        psnr_db, worst_psnr_db: median and smallest over the cases, 99 where pictures are equal; None: not measured.
        computed: see above; None where all is.
    """

    model: str
    system: str
    group: Group
    batch: int
    seconds: Spread
    speedup: float
    psnr_db: float | None
    worst_psnr_db: float | None
    computed: float | None


def measure(
    checkpoint: Checkpoint,
    model: str,
    requests: Sequence[EditRequest],
    deadline: Deadline,
    *,
    exact: Callable[[EditRequest], Image.Image] | None = None,
    only: Sequence[str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Row]:
    """Rounds of edits, a case each.

    Args:
        exact: makes the picture that a case's others are compared with; None compares none.
        only: names of systems; None is all.
        tell: is told what is done.
    """
    with systems(checkpoint, requests[-1]) as every:
        chosen = [system for system in every if only is None or system.name in only]
        found = {system.name: _Measured() for system in chosen}
        short = [replace(request, steps=2) for request in requests]
        for system in chosen:
            _edited(system, batch_from(short, 0, system.batch))
        for number in deadline.rounds(len(requests)):
            case = requests[number]
            expected = None if exact is None else _pixels(exact(case))
            for system in chosen:
                own = found[system.name]
                picture, seconds = _edited(system, batch_from(requests, number, system.batch))
                own.seconds.append(seconds / system.batch)
                if expected is not None:
                    own.psnr_db.append(psnr_in_mask(_pixels(picture), expected, case.mask.astype(np.float32)))
                if system.attended is not None:
                    own.attended.append(system.attended())
            tell(f"{model}: {number + 1} rounds, {deadline.left_seconds:.0f} s left")
    return [_row(model, system, found[system.name], found[REFERENCE]) for system in chosen]


def _edited(system: System, requests: Sequence[EditRequest]) -> tuple[Image.Image, float]:
    """The first request's picture, and what the edits took together, in seconds."""
    system.record(requests)
    with system.around():
        started = time.perf_counter()
        pictures = system.edit(requests)
        seconds = time.perf_counter() - started
    return pictures[0], seconds


def _pixels(picture: Image.Image) -> Pixels:
    return np.asarray(picture, np.float32) / np.float32(255)


def _row(model: str, system: System, own: _Measured, reference: _Measured) -> Row:
    return Row(
        model=model,
        system=system.name,
        group=system.group,
        batch=system.batch,
        seconds=Spread.of(own.seconds),
        speedup=median(ratios(reference.seconds, own.seconds)),
        psnr_db=median(own.psnr_db) if own.psnr_db else None,
        worst_psnr_db=min(own.psnr_db) if own.psnr_db else None,
        computed=median(own.attended) if own.attended else None,
    )


def table(rows: Sequence[Row], title: str) -> Table:
    """The figures for people."""
    shown = Table(title=title)
    for column in ("system", "s/edit", "P95", "speed-up", "PSNR dB", "worst", "computed"):
        shown.add_column(column, justify="left" if column == "system" else "right")
    for row in rows:
        shown.add_row(
            row.system,
            f"{row.seconds.median:.2f}",
            f"{row.seconds.p95:.2f}",
            f"{row.speedup:.2f}",
            "" if row.psnr_db is None else f"{row.psnr_db:.1f}",
            "" if row.worst_psnr_db is None else f"{row.worst_psnr_db:.1f}",
            "" if row.computed is None else f"{row.computed:.0%}",
        )
    return shown


def main() -> None:
    parser = arguments(__doc__, "peers", 10)
    parser.add_argument("--only", default=",".join(MODELS), help="models, with commas between them")
    parser.add_argument("--model", type=Path, default=BUILTIN, help="in the place of the embedded one")
    parser.add_argument("--steps", type=int, help="of an edit; by default the embedded model's own")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if not set(chosen) <= set(MODELS):
        parser.error(f"--only {options.only}: the models are {', '.join(MODELS)}")
    told = Console(stderr=True)
    deadline = Deadline(options.minutes)
    checkpoint = load_model(options.model)
    steps = options.steps or checkpoint.settings.steps
    about = {
        "model": checkpoint.settings.name,
        "revision": checkpoint.revision,
        "dtype": dtype_name(checkpoint.forward.dtype),
        "steps": steps,
        "minutes": options.minutes,
    }
    rows: list[Row] = []
    if "embedded" in chosen:
        requests = embedded_requests(checkpoint, MAX_CASES, steps)
        share = 0.75 if "medium" in chosen else 1.0  # pictures scatter by case, times hardly do
        dense = DiffusersEdits(load_model(options.model, "float32"))
        rows += measure(
            checkpoint,
            "embedded",
            requests,
            deadline.share(share),
            exact=lambda request: dense.edit([request])[0],
            tell=told.print,
        )
        write_results(options.out, "peers", about, [asdict(row) for row in rows])  # the other model may take long
    if "medium" in chosen:
        medium = medium_checkpoint(checkpoint.forward.dtype, steps=steps)
        edits = medium_requests(MAX_CASES)
        rows += measure(medium, "medium", edits, deadline.share(1), only=MEDIUM_ROWS, tell=told.print)
    write_results(options.out, "peers", about, [asdict(row) for row in rows])
    if options.out and "embedded" in chosen:
        plot([row for row in rows if row.model == "embedded"], options.out / "peers.svg")
    for model in chosen:
        show(table([row for row in rows if row.model == model], f"{model} model, {steps} steps an edit"))


if __name__ == "__main__":
    main()
