"""The claims that a change of the code must not break, in a minute or two: ratios with wide margins, no times.

    python scripts/bench/smoke.py

Exits with 1 where one is broken, and names the figure and its bound. Times are of the processor, of one thread: others
that use the machine, too, then hardly count. A ratio of them is measured once more before it counts as broken.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from statistics import median

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.engine import medium_flux, square_positions
from bench.pipeline_execution import sample_request
from bench.pipeline_simulation import loss_of_policy, simulate
from bench.speed_steps import Steps
from instgenie.checkpoint import BUILTIN, Checkpoint
from instgenie.codecs import CodecName
from instgenie.editor import Editor
from instgenie.host import quiet_libraries
from instgenie.load_model import load_model
from instgenie.records import RecordForm
from instgenie_cache import MemoryStore

ROUNDS = 3
USUAL_MASK = 0.11
# Of the planner's simulation: those in which the best plan is one that a masked-only flow can run.
OPTIMAL_CASES = ("equal", "on device")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A claim.

    Attributes:
        measure: its figure.
        least, most: what the figure may be.
        is_timed: whether it is of times.
    """

    name: str
    measure: Callable[[], float]
    least: float | None = None
    most: float | None = None
    is_timed: bool = False

    def holds(self, figure: float) -> bool:
        """Whether the figure is within the bounds; NaN is not."""
        return (self.least is None or figure >= self.least) and (self.most is None or figure <= self.most)

    @property
    def bound(self) -> str:
        """For people."""
        parts = [] if self.least is None else [f"at least {self.least:g}"]
        return ", ".join(parts if self.most is None else [*parts, f"at most {self.most:g}"])


def run(checks: Sequence[Check], tell: Callable[[str], None] = print) -> list[str]:
    """Names of the claims that are broken."""
    broken = []
    for check in checks:
        figure = check.measure()
        if check.is_timed and not check.holds(figure):
            tell(f"again {check.name}: {figure:.4g}, {check.bound}")
            figure = check.measure()
        is_held = check.holds(figure)
        tell(f"{'ok   ' if is_held else 'BROKEN'} {check.name}: {figure:.4g}, {check.bound}")
        if not is_held:
            broken.append(check.name)
    return broken


def claims(checkpoint: Checkpoint, steps: Steps) -> list[Check]:
    """All of them.

    Args:
        checkpoint: the embedded model.
        steps: of a medium one.
    """
    return [
        Check(
            name=f"speed-up of a step on {USUAL_MASK:.0%} of the tokens over a dense one",
            measure=lambda: masked_speedup(steps),
            least=2.5,
            is_timed=True,
        ),
        Check(
            name="time of our dense step to that of diffusers",
            measure=lambda: time_ratio(lambda: steps.dense(1), lambda: steps.diffusers(1)),
            most=1.15,
            is_timed=True,
        ),
        Check(
            name="time of a step that is computed to that of one that a step cache extrapolates",
            measure=lambda: extrapolated_speedup(steps),
            least=20,
            is_timed=True,
        ),
        Check(name="time of a planned step over the optimum, less 1, at worst", measure=over_optimum, most=1e-9),
        Check(name="bytes of records in int8 to raw ones in bf16", measure=int8_bytes, most=0.56),
        Check(
            name="bytes that a masked edit changed outside its mask",
            measure=lambda: changed_outside(checkpoint),
            most=0,
        ),
    ]


def masked_speedup(steps: Steps) -> float:
    """Of a step of ours that computes the usual mask's tokens, over one that computes all."""
    active = square_positions(steps.side, USUAL_MASK)
    return time_ratio(lambda: steps.dense(1), lambda: steps.masked(active, 1))


def extrapolated_speedup(steps: Steps) -> float:
    """Of a step that a step cache leaves out, over one that computes the usual mask's tokens."""
    active = square_positions(steps.side, USUAL_MASK)
    return time_ratio(lambda: steps.masked(active, 1), lambda: steps.extrapolated(active, 1))


def over_optimum() -> float:
    """What the planner's steps take beyond the optimum, as a share of that, at worst over the simulation's cases."""
    return max(loss_of_policy(simulate(case), "full_prefix").worst for case in OPTIMAL_CASES)


def int8_bytes() -> float:
    """Bytes of a record in int8 to those of a raw one, of heads of 64 channels."""

    def record_bytes(codec: CodecName) -> int:
        return RecordForm(torch.bfloat16, tokens=1024, heads=8, head_dim=64, blocks=1, codec=codec).record_bytes

    return record_bytes("int8") / record_bytes("raw")


def changed_outside(checkpoint: Checkpoint) -> float:
    """Bytes that differ outside the mask of an edit with records; infinite where the edit changed nothing inside."""
    request = sample_request(isqrt(checkpoint.settings.canvas_tokens) * checkpoint.codec.patch)
    editor = Editor(checkpoint, MemoryStore(1 << 30))
    try:
        edited = editor.edit(request)
    finally:
        editor.close()
    assert edited.timings.cache == "cold", f"the edit used no records: {edited.timings.cache}"
    differs = np.asarray(edited.picture) != np.asarray(request.picture)
    return float(differs[~request.mask].sum()) if differs[request.mask].any() else float("inf")


def time_ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    """Time of the first over that of the second: the median of rounds, after one that does not count."""
    found = [cpu_seconds(first) / cpu_seconds(second) for _ in range(ROUNDS + 1)]
    return median(found[1:])


def cpu_seconds(work: Callable[[], object]) -> float:
    """What the work takes of the processor, by one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.thread_time()
        work()
        return time.thread_time() - started
    finally:
        torch.set_num_threads(threads)


def main() -> None:
    quiet_libraries()
    broken = run(claims(load_model(BUILTIN), Steps(medium_flux(torch.float32), side=32)))
    if broken:
        sys.exit(f"{len(broken)} broken: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
