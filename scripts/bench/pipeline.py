"""The pipeline's three tables in one run: plans in simulation, plans as they are run, and what records cost.

    python scripts/bench/pipeline.py [--rounds 2] [--edits 3] [--model FOLDER] [--out FOLDER]

With --out, `pipeline.json` and its plots are written there. `pipeline_simulation.py`, `pipeline_execution.py` and
`pipeline_records.py` say what is measured, and run alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench import pipeline_execution, pipeline_records, pipeline_simulation
from bench.environment import environment
from instgenie.checkpoint import BUILTIN
from instgenie.load_model import load_model
from instgenie.pipeline.policies import PLAN_POLICIES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--edits", type=int, default=3)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.rounds < 1 or options.edits < 1:
        parser.error("--rounds and --edits: at least 1")
    console = Console()
    simulated = {case: pipeline_simulation.simulate(case) for case in pipeline_simulation.CASES}
    console.print(pipeline_simulation.policy_table(simulated))
    checkpoint = load_model(options.model)
    size = round(checkpoint.settings.canvas_tokens**0.5) * checkpoint.codec.patch
    request = pipeline_execution.sample_request(size)
    with tempfile.TemporaryDirectory() as folder:
        executed = pipeline_execution.measure(checkpoint, request, Path(folder), options.rounds)
    console.print(pipeline_execution.table(executed))
    recorded = pipeline_records.measure(checkpoint, pipeline_records.requests_of(checkpoint, options.edits))
    console.print(pipeline_records.table(recorded))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        content = {
            "environment": environment(),
            "simulated": [
                {"case": case, "policy": policy, **asdict(pipeline_simulation.loss_of_policy(rows, policy))}
                for case, rows in simulated.items()
                for policy in PLAN_POLICIES
            ],
            "executed": [asdict(row) for row in executed],
            "recorded": [asdict(row) for row in recorded],
        }
        (options.out / "pipeline.json").write_text(json.dumps(content, indent=1) + "\n")
        pipeline_simulation.plot(simulated["equal"], options.out / "pipeline_simulation.svg")
        pipeline_execution.plot(executed, options.out / "pipeline_execution.svg")


if __name__ == "__main__":
    main()
