"""What the benchmarks that run by the minute share: rounds within a time, percentiles, files of results.

A bench measures in rounds. In each round every row has its turn once, so that a noisy machine hits all of them alike;
ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.environment import environment

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Spread:
    """How figures spread: the median, the 95th percentile by nearest rank, how many there are."""

    median: float
    p95: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of these values, at least one."""
        ordered = sorted(values)
        return cls(median(ordered), ordered[math.ceil(0.95 * len(ordered)) - 1], len(ordered))


class Deadline:
    """Rounds that fit into a time.

    The first round runs in any case. Another one begins where there is time for one as long as the last.
    """

    def __init__(self, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = 60 * minutes
        self._started = clock()

    def share(self, part: float) -> Deadline:
        """A deadline of its own, from now on: that part of what is left."""
        return Deadline(part * self.left_seconds / 60, self._clock)

    @property
    def left_seconds(self) -> float:
        """Until the end; 0 after it."""
        return max(0.0, self._seconds - (self._clock() - self._started))

    def rounds(self, most: int | None = None) -> Iterator[int]:
        """Numbers of rounds, from 0, for as long as there is time, and no more than `most`."""
        last, number = 0.0, 0
        while number == 0 or (self.left_seconds >= last and number != most):
            began = self._clock()
            yield number
            last = self._clock() - began
            number += 1


def timed_ms(work: Callable[[], object]) -> float:
    """Milliseconds that the work takes."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def timed_rounds(named: Mapping[str, Callable[[], object]], deadline: Deadline) -> dict[str, list[float]]:
    """Milliseconds of each row in each round. A round that is not counted comes first, and counts as time."""
    for work in named.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in named}
    for _ in deadline.rounds():
        for name, work in named.items():
            times[name].append(timed_ms(work))
    return times


def ratios(values: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Each value over the reference of its round."""
    return [value / other for value, other in zip(values, reference, strict=True)]


def arguments(doc: str | None, name: str, minutes: float) -> argparse.ArgumentParser:
    """A parser of what every bench takes: `--minutes`, and `--out` for a folder of results.

    Args:
        name: of its file there, without `.json`.
        minutes: that it takes by default.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    told = "measure for so long, but one round at least, which may take minutes; %(default)g"
    parser.add_argument("--minutes", type=_positive, default=minutes, help=told)
    parser.add_argument("--out", type=Path, help=f"folder to write {name}.json and plots to")
    return parser


def write_results(out: Path | None, name: str, about: Mapping[str, object], results: object) -> None:
    """Write `name`.json into the folder, which is made; None writes nothing."""
    if out is None:
        return
    out.mkdir(parents=True, exist_ok=True)
    content = {"about": about, "environment": environment(), "results": results}
    (out / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def show(table: Table) -> None:
    """Print a table, as wide as it wants to be where nobody sees a terminal's border."""
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value
