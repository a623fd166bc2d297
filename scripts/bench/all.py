"""Runs the benchmarks one after the other, each for a share of the time, and writes what they measured.

    python scripts/bench/all.py [--minutes 30] [--out FOLDER] [--only peers,speed]

Results and plots go to FOLDER, by default `results/`, from which `report.py` writes the documents' figures. A bench
whose share is too short for it is left out; one that fails, or takes far longer than its share, does not stop the
others. The end says which these were, and the exit status is then 1. Figures of a short run are noisy.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
GRACE_SECONDS = 180  # beyond a bench's share: a first round may be longer, and models have to be loaded


@dataclass(frozen=True, slots=True)
class Bench:
    """A benchmark.

    Attributes:
        share: of all minutes.
        arguments: of its script, from its minutes and the folder of results.
        least_minutes: below which it is left out.
    """

    name: str
    share: float
    arguments: Callable[[float, Path], Sequence[str]]
    least_minutes: float = 0.0

    @property
    def script(self) -> Path:
        """What runs it."""
        return FOLDER / f"{self.name}.py"


def _by_minutes(minutes: float, out: Path) -> list[str]:
    return ["--minutes", f"{minutes:.2f}", "--out", str(out)]


def _by_rounds(file: str, start_seconds: float, round_seconds: float) -> Callable[[float, Path], list[str]]:
    """Of a bench that counts: as many rounds as its minutes have room for, by what they take on two cores."""

    def arguments(minutes: float, out: Path) -> list[str]:
        rounds = max(1, int((60 * minutes - start_seconds) / round_seconds))
        return ["--rounds", str(rounds), "--json", str(out / file)]

    return arguments


def _pipeline(minutes: float, out: Path) -> list[str]:
    rounds = max(1, int(minutes / 2))
    return ["--rounds", str(rounds), "--edits", str(2 * rounds), "--out", str(out)]


BENCHES = (
    Bench("fidelity", 0.28, _by_minutes, least_minutes=1),
    Bench("peers", 0.28, _by_minutes, least_minutes=1),
    Bench("speed", 0.08, _by_minutes),
    Bench("tiers", 0.05, _by_minutes),
    Bench("engine", 0.03, _by_rounds("engine.json", 12, 5)),
    Bench("pipeline", 0.08, _pipeline, least_minutes=1.5),
    Bench("batching", 0.12, lambda _, out: ["--only", "b,d", "--out", str(out)], least_minutes=3.5),
    Bench("quickstart", 0.03, _by_rounds("quickstart.json", 0, 45), least_minutes=0.7),
    Bench("server", 0.01, lambda _, out: ["--requests", "300", "--json", str(out / "server.json")]),
    Bench("cache", 0.02, _by_rounds("cache.json", 35, 3), least_minutes=0.5),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a bench: nothing to say, or what went wrong, or why it was left out."""

    name: str
    seconds: float
    failure: str | None = None


def run(bench: Bench, minutes: float, out: Path) -> Outcome:
    """Run a bench in a process of its own, with that share of the minutes."""
    own = bench.share * minutes
    if own < bench.least_minutes:
        wanted = bench.least_minutes / bench.share
        return Outcome(bench.name, 0.0, f"left out: it takes {bench.least_minutes:g} minutes (--minutes {wanted:.0f})")
    command = [sys.executable, str(bench.script), *bench.arguments(own, out)]
    print(f"\n{bench.name}, {own:.1f} minutes: {' '.join(command[1:])}", flush=True)
    started = time.monotonic()
    try:
        status = subprocess.run(command, check=False, timeout=1.5 * 60 * own + GRACE_SECONDS).returncode
    except subprocess.TimeoutExpired as late:
        return Outcome(bench.name, time.monotonic() - started, f"stopped after {late.timeout:.0f} s")
    return Outcome(bench.name, time.monotonic() - started, f"ended with status {status}" if status else None)


def run_all(benches: Iterable[Bench], minutes: float, out: Path) -> list[Outcome]:
    """All of them, whatever comes of each."""
    out.mkdir(parents=True, exist_ok=True)
    return [run(bench, minutes, out) for bench in benches]


def summary(outcomes: Sequence[Outcome]) -> str:
    """A line for each bench."""
    lines = [f"{outcome.name:12}{outcome.seconds:6.0f} s  {outcome.failure or 'done'}" for outcome in outcomes]
    return "\n".join([*lines, f"{'in all':12}{sum(outcome.seconds for outcome in outcomes):6.0f} s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--only", default=",".join(bench.name for bench in BENCHES), help="with commas between them")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - {bench.name for bench in BENCHES}:
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}")
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes}: more than 0")
    chosen = [bench for bench in BENCHES if bench.name in names]
    outcomes = run_all(chosen, options.minutes, options.out)
    print(f"\n{summary(outcomes)}")
    if any(outcome.failure for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
