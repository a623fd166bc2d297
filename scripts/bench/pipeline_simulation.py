"""What plans of a step lose on the optimum: four policies in simulation, 57 blocks, over loads and masks.

    python scripts/bench/pipeline_simulation.py [--json OUT]

Every policy chooses the blocks that run in full; each choice is then played through. The grid is the load of a record
at 0.1 to 1.2 of a full block's time, and a masked block at 0.1 to 0.6 of it. The optimum is that of all choices of full
blocks, by a dynamic programme. A masked-only flow can run full_prefix, always_cached and dense; greedy and the optimum
have full blocks after masked ones wherever they like.

Cases: equal blocks; Flux's 19 double and 38 single blocks, a double one dearer than a single one by a factor and their
records of one size; equal blocks, the last third's records on the device; blocks with times drawn from 0 to twice the
grid's, each for itself. A second table gives the loader's buffer a limit of so many records, with equal blocks.

With --json, a plot of equal blocks is written next to OUT, with .svg for a suffix.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean

import matplotlib as mpl
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.environment import environment
from instgenie.pipeline.planner import IDLE, BlockCosts, LoaderState, plan_step
from instgenie.pipeline.policies import PLAN_POLICIES, PlanPolicyName
from instgenie.pipeline.timeline import timeline
from tests.instgenie.pipeline.pareto_reference import optimum_ms

BLOCKS = 57
DOUBLE_BLOCKS = 19
LOADS = tuple(share / 10 for share in range(1, 13))  # of a full block's time
MASKS = tuple(share / 10 for share in range(1, 7))
BUFFER_RECORDS = (2, 4, 8, 16, 24, 32)
PLOTTED_MASKS = (0.1, 0.3, 0.6)
STYLES: Mapping[PlanPolicyName, tuple[str, str]] = {
    "full_prefix": ("#0072b2", "-"),
    "greedy": ("#d55e00", "-"),
    "always_cached": ("#009e73", "--"),
    "dense": ("#777777", ":"),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy made of one point of the grid.

    Attributes:
        load: of a record, as a share of a full block's time.
        masked: block's time, likewise.
        over_dense: step time as a share of the dense one.
        over_optimum: step time beyond the optimum, as a share of that.
        stall: share of the step time that compute waited.
    """

    policy: PlanPolicyName
    load: float
    masked: float
    over_dense: float
    over_optimum: float
    stall: float


@dataclass(frozen=True, slots=True)
class Loss:
    """Step time beyond another one's, as a share of that, over the grid."""

    mean: float
    worst: float


def equal_blocks(load: float, masked: float) -> BlockCosts:
    """Full blocks of 1 ms; every record is one unit of the buffer."""
    return BlockCosts((masked,) * BLOCKS, (1.0,) * BLOCKS, (load,) * BLOCKS, (1,) * BLOCKS)


def dearer_double_blocks(cost: float) -> Callable[[float, float], BlockCosts]:
    """Single blocks of 1 ms in full after double ones of `cost` ms."""

    def costs(load: float, masked: float) -> BlockCosts:
        full_ms = (cost,) * DOUBLE_BLOCKS + (1.0,) * (BLOCKS - DOUBLE_BLOCKS)
        return replace(equal_blocks(load, masked), masked_ms=tuple(masked * ms for ms in full_ms), full_ms=full_ms)

    return costs


def last_third_on_device(load: float, masked: float) -> BlockCosts:
    """Equal blocks, a third of them without a load."""
    there = BLOCKS // 3
    return replace(equal_blocks(load, masked), load_ms=(load,) * (BLOCKS - there) + (0.0,) * there)


def drawn_blocks(load: float, masked: float) -> BlockCosts:
    """The same at every call with the same point; a masked block is drawn as a share of its own full time."""
    rng = random.Random(f"{load} {masked}")
    full_ms = tuple(2 * rng.random() for _ in range(BLOCKS))
    masked_ms = tuple(2 * masked * rng.random() * ms for ms in full_ms)
    return BlockCosts(masked_ms, full_ms, tuple(2 * load * rng.random() for _ in full_ms), (1,) * BLOCKS)


CASES: Mapping[str, Callable[[float, float], BlockCosts]] = {
    "equal": equal_blocks,
    "double x 1.05": dearer_double_blocks(1.05),
    "double x 1.2": dearer_double_blocks(1.2),
    "double x 1.5": dearer_double_blocks(1.5),
    "on device": last_third_on_device,
    "drawn": drawn_blocks,
}


def simulate(case: str) -> list[Outcome]:
    """Every policy at every point of the grid."""
    outcomes = []
    for load, masked in _grid():
        costs = CASES[case](load, masked)
        best_ms, dense_ms = optimum_ms(costs), sum(costs.full_ms)
        for name, policy in PLAN_POLICIES.items():
            step = timeline(costs, IDLE, policy(costs, IDLE))
            stall = step.stall_ms / step.step_ms
            outcomes.append(Outcome(name, load, masked, step.step_ms / dense_ms, step.step_ms / best_ms - 1, stall))
    return outcomes


def loss_of_buffer(records: int) -> Loss:
    """What full_prefix loses with a buffer of so many records, on itself without a limit."""
    losses = []
    for load, masked in _grid():
        costs = equal_blocks(load, masked)
        losses.append(plan_step(costs, LoaderState(buffer_bytes=records)).step_ms / plan_step(costs).step_ms - 1)
    return Loss(mean(losses), max(losses))


def loss_of_policy(outcomes: Sequence[Outcome], policy: PlanPolicyName) -> Loss:
    """What a policy loses on the optimum."""
    losses = [outcome.over_optimum for outcome in outcomes if outcome.policy == policy]
    return Loss(mean(losses), max(losses))


def policy_table(outcomes: Mapping[str, Sequence[Outcome]]) -> Table:
    """For people: by case and policy."""
    shown = Table(title=f"Step of {BLOCKS} blocks over the optimum: mean and worst of {len(LOADS) * len(MASKS)} points")
    shown.add_column("")
    for policy in PLAN_POLICIES:
        shown.add_column(policy, justify="right")
    for case, rows in outcomes.items():
        shown.add_row(case, *(_percents(loss_of_policy(rows, policy)) for policy in PLAN_POLICIES))
    shown.add_section()
    stalls = []
    for policy in PLAN_POLICIES:
        found = [row.stall for row in outcomes["equal"] if row.policy == policy]
        stalls.append(_percents(Loss(mean(found), max(found))))
    shown.add_row("equal: stall", *stalls)
    return shown


def buffer_table(losses: Mapping[int, Loss]) -> Table:
    """For people: by the buffer's size."""
    shown = Table(title="Buffer of N records, full_prefix: over an unlimited one")
    shown.add_column("")
    for records in losses:
        shown.add_column(str(records), justify="right")
    shown.add_row("mean", *(_percent(loss.mean) for loss in losses.values()))
    shown.add_row("worst", *(_percent(loss.worst) for loss in losses.values()))
    return shown


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """A column for each mask, step time above, stall below. The same figures make the same file."""
    with mpl.rc_context():
        mpl.rcParams.update({"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.size": 9})
        figure = Figure(figsize=(9, 5), layout="constrained", facecolor="white")
        axes = figure.subplots(2, len(PLOTTED_MASKS), sharex=True, sharey="row")
        for column, masked in enumerate(PLOTTED_MASKS):
            for policy, (colour, line) in STYLES.items():
                rows = [row for row in outcomes if (row.policy, row.masked) == (policy, masked)]
                loads = [row.load for row in rows]
                axes[0][column].plot(loads, [row.over_dense for row in rows], line, color=colour, label=policy)
                axes[1][column].plot(loads, [100 * row.stall for row in rows], line, color=colour)
            axes[0][column].set_title(f"masked block: {masked:g} of a full one")
            axes[1][column].set_xlabel("load of a record / full block")
        axes[0][0].set_ylabel("step / dense step")
        axes[1][0].set_ylabel("stall, % of step")
        for axis in axes.flat:
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES))
        figure.savefig(path, format="svg", metadata={"Date": None})


def _grid() -> list[tuple[float, float]]:
    return [(load, masked) for masked in MASKS for load in LOADS]


def _percents(loss: Loss) -> str:
    return f"{_percent(loss.mean)} {_percent(loss.worst):>6}"


def _percent(share: float) -> str:
    return f"{max(share, 0.0):.1%}"  # rounding makes an optimum's share 1e-16 below 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    outcomes = {case: simulate(case) for case in CASES}
    buffers = {records: loss_of_buffer(records) for records in BUFFER_RECORDS}
    console = Console()
    console.print(policy_table(outcomes))
    console.print(buffer_table(buffers))
    if options.json:
        losses = [
            {"case": case, "policy": policy, **asdict(loss_of_policy(rows, policy))}
            for case, rows in outcomes.items()
            for policy in PLAN_POLICIES
        ]
        content = {
            "about": {"blocks": BLOCKS, "loads": LOADS, "masks": MASKS},
            "environment": environment(),
            "over_optimum": losses,
            "over_unlimited": [{"buffer_records": records, **asdict(loss)} for records, loss in buffers.items()],
            "equal_blocks": [asdict(outcome) for outcome in outcomes["equal"]],
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
        plot(outcomes["equal"], options.json.with_suffix(".svg"))


if __name__ == "__main__":
    main()
