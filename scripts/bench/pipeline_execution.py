"""Plans of steps as they are run: edits whose records come from a disk that is as slow as is asked for.

    python scripts/bench/pipeline_execution.py [--rounds 2] [--model FOLDER] [--json OUT]

One template is recorded into LMDB, and edited with every policy from a new store, so that nothing of it is in memory.
Reads pass a token bucket. Its bandwidths are such that a step's records take a share of the time of a dense step to
load, and one is without a limit. Policies: `full_prefix` is ours; `greedy` is the number of blocks that the published
rule computes in full, put first, where a masked-only flow can run them: with equal blocks that is no later than where
the rule has them. Costs are calibrated once, and learn from an edit at each bandwidth that is not counted.

A round runs all policies at one bandwidth one after the other; `of best` is the median of the ratios, within a round,
to the faster one of dense and always_cached. Stalls are what the computation was measured to wait for records. `full`
is blocks that were computed on all tokens, `off` how far the median step is from what was planned.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.environment import environment
from bench.pipeline_simulation import STYLES
from bench.throttled_tier import ThrottledTier
from instgenie.checkpoint import BUILTIN, Checkpoint
from instgenie.editor import Editor
from instgenie.load_model import load_model
from instgenie.pipeline.calibration import calibrate
from instgenie.pipeline.cost import CostModel
from instgenie.pipeline.policies import PLAN_POLICIES, PlanPolicyName
from instgenie.pipeline.probe import UsualEdit
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.request import EditRequest
from instgenie.running_edit import TakenStep
from instgenie_cache.policies import make_policy
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.disk_tier import DiskTier
from instgenie_cache.tiers.host_tier import HostTier

HOST_BYTES = 256 << 20
DISK_BYTES = 4 << 30
SHARES: tuple[float | None, ...] = (None, 0.25, 0.5, 1.0, 2.0)  # of a dense step's time, for a step's records
SAMPLE = BUILTIN / "samples"


@dataclass(frozen=True, slots=True)
class Run:
    """One edit's steps, in ms, the first one not counted: nothing could be loaded ahead of it."""

    step_ms: float
    stall_ms: float
    planned_ms: float
    planned_stall_ms: float
    full_blocks: float


@dataclass(frozen=True, slots=True)
class Row:
    """A policy at a bandwidth.

    Attributes:
        load_share: time to load a step's records, of a dense step's; None without a limit.
        of_best: its time against the faster one of dense and always_cached.
        stall_share: of the steps' time.
        unplanned_stall_share: of it, what was not planned.
        off_plan: the median step's time against the planned one, less 1.
    """

    load_share: float | None
    policy: PlanPolicyName
    step_ms: float
    of_best: float
    stall_share: float
    unplanned_stall_share: float
    full_blocks: float
    off_plan: float


class _Store(TieredStore):
    """Brings nothing into memory after an edit: the next one shall find it as this one did."""

    def prefetch(self, template: str, steps: Sequence[int] | None = None) -> None:
        """Nothing."""


def measure(checkpoint: Checkpoint, request: EditRequest, folder: Path, rounds: int) -> list[Row]:
    """Record the template and run it with every policy at every bandwidth."""
    costs = calibrate(checkpoint.forward, UsualEdit(checkpoint.settings.canvas_tokens, text_tokens=8), 6.0).to_dict()
    with _editor(checkpoint, folder, None) as editor:
        editor.edit(request)
        editor.flush()
        dense_ms = median(editor.dense(request).timings.step_ms)
        with editor.start(request) as running:
            num_bytes = editor.num_bytes(running.template_key)
            steps = running.steps
    assert num_bytes is not None
    rows = []
    for share in track(SHARES, "bandwidths", console=Console(stderr=True)):
        bandwidth = None if share is None else num_bytes / steps / (share * dense_ms / 1000)
        model = CostModel.from_dict(costs)
        _run(checkpoint, request, folder, bandwidth, StepPlanner(model, PLAN_POLICIES["always_cached"]))
        found: dict[PlanPolicyName, list[Run]] = {policy: [] for policy in PLAN_POLICIES}
        for _ in range(rounds):
            for policy, runs in found.items():
                runs.append(_run(checkpoint, request, folder, bandwidth, StepPlanner(model, PLAN_POLICIES[policy])))
        rows += _rows(share, found)
    return rows


def _run(
    checkpoint: Checkpoint, request: EditRequest, folder: Path, bandwidth: float | None, planner: StepPlanner
) -> Run:
    with _editor(checkpoint, folder, bandwidth) as editor:
        editor.plan_steps(planner)
        with editor.start(request) as running:
            while not running.done:
                running.advance()
            assert (running.timings.cache, running.timings.dense_steps) == ("hit", 0)
            return _summary(running.taken[1:])


def _summary(taken: Sequence[TakenStep]) -> Run:
    plans = [step.plan for step in taken if step.plan is not None]
    return Run(
        step_ms=median(step.step_ms for step in taken),
        stall_ms=fmean(step.stall_ms for step in taken),
        planned_ms=median(plan.step_ms for plan in plans),
        planned_stall_ms=fmean(plan.stall_ms for plan in plans),
        full_blocks=fmean(plan.full_prefix for plan in plans),
    )


def _rows(share: float | None, found: Mapping[PlanPolicyName, Sequence[Run]]) -> list[Row]:
    best = [min(one.step_ms, other.step_ms) for one, other in zip(found["dense"], found["always_cached"], strict=True)]
    rows = []
    for policy, runs in found.items():
        step_ms = median(run.step_ms for run in runs)
        stall_ms = median(run.stall_ms for run in runs)
        planned_stall_ms = median(run.planned_stall_ms for run in runs)
        rows.append(
            Row(
                load_share=share,
                policy=policy,
                step_ms=step_ms,
                of_best=median(run.step_ms / ms for run, ms in zip(runs, best, strict=True)),
                stall_share=stall_ms / step_ms,
                unplanned_stall_share=max(0.0, stall_ms - planned_stall_ms) / step_ms,
                full_blocks=median(run.full_blocks for run in runs),
                off_plan=median(run.step_ms / run.planned_ms for run in runs) - 1,
            )
        )
    return rows


def _editor(checkpoint: Checkpoint, folder: Path, bandwidth: float | None) -> _Closing:
    disk = DiskTier.open(folder, DISK_BYTES, "never")
    tier = disk if bandwidth is None else ThrottledTier(disk, bandwidth)
    host = HostTier(Arena.create(HOST_BYTES), make_policy("gdsf"))
    return _Closing(Editor(checkpoint, _Store(host, [tier], make_policy("gdsf"))))


class _Closing:
    """Closes an editor at the end of a block."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor

    def __enter__(self) -> Editor:
        return self._editor

    def __exit__(self, *_: object) -> None:
        self._editor.close()


def sample_request(size: int) -> EditRequest:
    """The package's sample edit, at the size of the model's canvas."""
    picture = Image.open(SAMPLE / "table_template.png").convert("RGB").resize((size, size))
    mask = Image.open(SAMPLE / "table_mask.png").convert("L").resize((size, size), Image.Resampling.NEAREST)
    return EditRequest(picture=picture, mask=np.asarray(mask) > 127, prompt="a watermelon", refreshes=0)


def table(rows: Sequence[Row]) -> Table:
    """The figures for people."""
    shown = Table(title="plans as they are run, from a throttled disk")
    for column in ("load", "policy", "step ms", "of best", "stall", "unplanned", "full", "off"):
        shown.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        shown.add_row(
            "no limit" if row.load_share is None else f"{row.load_share:.2f}",
            row.policy,
            f"{row.step_ms:.1f}",
            f"{row.of_best:.2f}",
            f"{row.stall_share:.1%}",
            f"{row.unplanned_stall_share:.1%}",
            f"{row.full_blocks:.1f}",
            f"{row.off_plan:+.0%}",
        )
    return shown


def plot(rows: Sequence[Row], path: Path) -> None:
    """Step time and stall by bandwidth. The same figures make the same file."""
    labels = ["no limit" if share is None else f"{share:g}" for share in SHARES]
    with mpl.rc_context():
        mpl.rcParams.update({"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.size": 9})
        figure = Figure(figsize=(9, 3.2), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        for policy, (colour, line) in STYLES.items():
            own = {row.load_share: row for row in rows if row.policy == policy}
            left.plot(labels, [own[share].step_ms for share in SHARES], line, color=colour, label=policy)
            right.plot(labels, [100 * own[share].stall_share for share in SHARES], line, color=colour)
        left.set_ylabel("step, ms")
        right.set_ylabel("stall, % of step")
        for axis in (left, right):
            axis.set_xlabel("load of a step's records / dense step")
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(STYLES))
        figure.savefig(path, format="svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1")
    checkpoint = load_model(options.model)
    size = round(checkpoint.settings.canvas_tokens**0.5) * checkpoint.codec.patch
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(checkpoint, sample_request(size), Path(folder), options.rounds)
    Console().print(table(rows))
    if options.json:
        content = {"environment": environment(), "results": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
