"""What a step takes with a share of the tokens masked, how near that is to the ideal, and what a step cache adds.

    python scripts/bench/speed.py [--minutes 3] [--dtype float32] [--out FOLDER]

A Flux transformer of 71M random weights and 1,024 image tokens, as in `engine.py`. Masks are given in tokens that are
computed, a halo included. `of ideal` is the speed-up against the one that the operations of both passes would give,
linear layers and attention counted exactly.

A step cache saves steps, whatever the mask. Of those that it skips, diffusers' first-block cache computes the first
block, and decides by the picture how many they are (`peers.py` has that, and what it does to the picture). `crossing`
is the mask at which masked compute without a step cache is as fast. `both` is masked compute with our own step cache,
which extrapolates the steps that it skips. The kinds of steps are measured each by itself, and put together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.engine import TEXT_TOKENS, medium_flux, square_positions
from bench.harness import Deadline, Spread, arguments, ratios, show, timed_ms, write_results
from bench.speed_flops import pass_flops
from bench.speed_plot import plot
from bench.speed_steps import Steps, skipped_step
from instgenie.host import quiet_libraries

MASKS = (0.05, 0.11, 0.20, 0.35, 0.50)
USUAL = 0.11  # on average in a production trace
BATCHES = (1, 4)
SKIPPED = (0.25, 0.5, 0.67, 0.75)
DIFFUSERS, DENSE, SKIP = "diffusers, dense", "ours, dense", "diffusers, skipped by its first-block cache"


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step, by itself or in a batch.

    Attributes:
        active: share of the tokens that is computed.
        ms: of an edit's step: a batch's by its size.
        speedup: median against diffusers' dense step in a batch of that size.
        ideal: speed-up that the operations alone would give, None for a skipped step.
    """

    step: str
    batch: int
    active: float
    ms: Spread
    speedup: float
    ideal: float | None


@dataclass(frozen=True, slots=True)
class Crossing:
    """Masked compute and a step cache that skips a share of the steps.

    Attributes:
        speedup: of the step cache alone.
        crossing: share of the tokens at which masked compute alone is as fast; 0 below the smallest mask.
        masked, both: speed-ups at the usual mask without and with extrapolated steps.
    """

    batch: int
    skipped: float
    speedup: float
    crossing: float
    masked: float
    both: float


def measure(steps: Steps, deadline: Deadline) -> dict[int, dict[str, list[float]]]:
    """Milliseconds of an edit's step in each round, by size of batch and name of the step."""
    for batch in BATCHES:
        _one_round(steps, batch)  # does not count
    found: dict[int, dict[str, list[float]]] = {batch: {} for batch in BATCHES}
    for _ in deadline.rounds():
        for batch, times in found.items():
            for name, ms in _one_round(steps, batch).items():
                times.setdefault(name, []).append(ms)
    return found


def _one_round(steps: Steps, batch: int) -> dict[str, float]:
    active = {mask: square_positions(steps.side, mask) for mask in MASKS}
    works: dict[str, Callable[[], object]] = {
        DIFFUSERS: partial(steps.diffusers, batch),
        DENSE: partial(steps.dense, batch),
        **{masked(mask): partial(steps.masked, tokens, batch) for mask, tokens in active.items()},
        extrapolated(USUAL): partial(steps.extrapolated, active[USUAL], batch),
    }
    times = {name: timed_ms(work) / batch for name, work in works.items()}
    with skipped_step(steps, batch) as work:
        times[SKIP] = timed_ms(work) / batch
    return times


def masked(mask: float) -> str:
    """Name of a step."""
    return f"ours, {mask:.0%} of the tokens"


def extrapolated(mask: float) -> str:
    """Name of a step that is not computed."""
    return f"ours, {mask:.0%} of the tokens, extrapolated"


def step_rows(times: dict[str, list[float]], batch: int, steps: Steps) -> list[StepRow]:
    """The figures of a batch's steps."""
    tokens = steps.side**2
    active = {masked(mask): len(square_positions(steps.side, mask)) for mask in MASKS}
    active[extrapolated(USUAL)] = active[masked(USUAL)]
    config = steps.forward.transformer.config
    dense_flops = pass_flops(config, TEXT_TOKENS, tokens, tokens)
    rows = []
    for name, ms in times.items():
        computed = active.get(name, tokens)
        is_whole = name not in (SKIP, extrapolated(USUAL))
        ideal = dense_flops / pass_flops(config, TEXT_TOKENS, computed, tokens) if is_whole else None
        speedup = median(ratios(times[DIFFUSERS], ms))
        rows.append(StepRow(name, batch, computed / tokens, Spread.of(ms), speedup, ideal))
    return rows


def crossings(rows: Sequence[StepRow]) -> list[Crossing]:
    """Where the lines of a batch cross."""
    by_name = {row.step: row for row in rows}
    # Times against a dense step of diffusers.
    line = sorted((row.active, 1 / row.speedup) for row in rows if row.step in {DENSE, *map(masked, MASKS)})
    usual, skip, both_skip = (1 / by_name[name].speedup for name in (masked(USUAL), SKIP, extrapolated(USUAL)))
    found = []
    for share in SKIPPED:
        alone = 1 - share + share * skip
        both = (1 - share) * usual + share * both_skip
        found.append(Crossing(rows[0].batch, share, 1 / alone, mask_at(line, alone), 1 / usual, 1 / both))
    return found


def mask_at(line: Sequence[tuple[float, float]], time: float) -> float:
    """Share of the tokens at which a line of (share, time) reaches the time; 0 below the line, 1 above it."""
    if time < line[0][1]:
        return 0.0
    for (low, before), (high, after) in pairwise(line):
        if before <= time <= after:
            return low + (high - low) * (time - before) / (after - before)
    return 1.0


def step_table(rows: Sequence[StepRow]) -> Table:
    """For people: the steps."""
    shown = Table(title="a step of the medium Flux")
    for column in ("step", "batch", "ms/edit", "P95", "speed-up", "ideal", "of ideal"):
        shown.add_column(column, justify="left" if column == "step" else "right")
    for row in rows:
        shown.add_row(
            row.step,
            str(row.batch),
            f"{row.ms.median:.1f}",
            f"{row.ms.p95:.1f}",
            f"{row.speedup:.2f}",
            "" if row.ideal is None else f"{row.ideal:.2f}",
            "" if row.ideal is None else f"{row.speedup / row.ideal:.0%}",
        )
    return shown


def crossing_table(rows: Sequence[Crossing]) -> Table:
    """For people: where the lines cross."""
    shown = Table(title=f"masked compute and a step cache; masked and both at {USUAL:.0%} of the tokens")
    for column in ("batch", "skipped", "step cache", "crossing", "masked", "both"):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(
            str(row.batch),
            f"{row.skipped:.0%}",
            f"{row.speedup:.2f}",
            f"{row.crossing:.0%}",
            f"{row.masked:.2f}",
            f"{row.both:.2f}",
        )
    return shown


def main() -> None:
    parser = arguments(__doc__, "speed", 3)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--side", type=int, default=32, help="tokens on a side of the square grid")
    options = parser.parse_args()
    quiet_libraries()
    deadline = Deadline(options.minutes)
    dtype = getattr(torch, options.dtype)
    steps = Steps(medium_flux(dtype), options.side)
    times = measure(steps, deadline)
    rows = {batch: step_rows(of_batch, batch, steps) for batch, of_batch in times.items()}
    lines = [crossing for of_batch in rows.values() for crossing in crossings(of_batch)]
    every = [row for of_batch in rows.values() for row in of_batch]
    about = {"dtype": options.dtype, "image_tokens": options.side**2, "minutes": options.minutes}
    results = {"steps": [asdict(row) for row in every], "crossings": [asdict(row) for row in lines]}
    write_results(options.out, "speed", about, results)
    if options.out:
        plot(every, lines, options.out / "speed.svg")
    show(step_table(every))
    show(crossing_table(lines))


if __name__ == "__main__":
    main()
