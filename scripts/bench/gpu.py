"""What a GPU makes of it: a model of the size of FLUX.1 at 1024x1024 pixels, with random weights.

    python scripts/bench/gpu.py [--minutes 18] [--only ceilings,steps,loads,compiled] [--out FOLDER]
    python scripts/bench/gpu.py --device cpu --model tiny      # a trial of the script

First what the device can do at best: matrix products, copies, loads from page-locked memory. Then steps in bfloat16, of
diffusers and of ours: `steps` by share of the tokens and size of batch, records on the device; `loads` from page-locked
memory and from disk, planned in three ways; `compiled` once more with compiled blocks. Edits of a batch share their
template, without halo and refreshes, and a record is loaded once for all of them. Each figure is told as a share of the
device's best, too. Speed does not depend on weights. Nothing is fetched. Rows that there is no time for are left out,
and the end says so.

FLUX.1 takes 24 GB of the device's memory and as much of the host's as records of a few steps take, 3 GB each.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.gpu_ceilings import Ceilings, measure_ceilings
from bench.gpu_models import ARCHITECTURES, random_checkpoint
from bench.gpu_steps import StepBench, StepRow
from bench.harness import Deadline, arguments, show, write_results
from instgenie.host import compute_device, quiet_libraries
from instgenie.pipeline.calibration import calibrate
from instgenie.pipeline.policies import PlanPolicyName
from instgenie.pipeline.probe import UsualEdit

SHARES = (0.05, 0.11, 0.20, 0.35, 0.50)
USUAL = 0.11  # on average in a production trace
BATCHES = (1, 2, 4, 8, 16)
LOADED_BATCHES = (1, 4)
POLICIES: tuple[PlanPolicyName, ...] = ("always_cached", "greedy", "full_prefix")
STEPS = 6  # of an edit: the first does not count
PARTS = ("ceilings", "steps", "loads", "compiled")
TRIAL_SIDE, TRIAL_BYTES = 512, 1 << 24  # of ceilings on a CPU


def step_rows(bench: StepBench, parts: Sequence[str], batches: Sequence[int]) -> Iterator[StepRow]:
    """All rows of these parts, one by one."""
    loaded = [batch for batch in LOADED_BATCHES if batch in batches]
    if "steps" in parts:
        for batch in batches:
            yield bench.diffusers(batch)
            yield bench.dense(batch)
        yield from bench.on_device(batches, SHARES)
    if "loads" in parts:
        yield from bench.from_host(loaded, SHARES, POLICIES)
        yield from bench.from_disk(loaded[:1], SHARES, POLICIES)
    if "compiled" in parts:
        bench.checkpoint.forward.compile()
        if bench.checkpoint.forward.parts.are_compiled:
            yield from bench.on_device(batches, (USUAL,), "ours, compiled")


def table(rows: Sequence[StepRow], ceilings: Ceilings | None) -> Table:
    """For people."""
    dense = {row.batch: row.ms.median for row in rows if row.system == "diffusers"}
    shown = Table(title="denoising steps")
    for column in (
        "system",
        "records",
        "plan",
        "batch",
        "tokens",
        "ms/edit",
        "speed-up",
        "TFLOP/s",
        "of best",
        "GB/s",
        "of best",
        "stall",
        "full",
    ):
        shown.add_column(column, justify="left" if column in ("system", "records", "plan") else "right")
    for row in rows:
        of_matmul = f"{row.tflops / ceilings.matmul_tflops:.0%}" if ceilings else ""
        of_load = f"{row.loaded_gb_per_second / ceilings.load_gb_per_second:.0%}" if ceilings else ""
        shown.add_row(
            row.system,
            row.source or "",
            row.policy or "",
            str(row.batch),
            f"{row.active:.1%}",
            f"{row.ms.median / row.batch:.2f}",
            f"{dense[row.batch] / row.ms.median:.2f}" if row.batch in dense else "",
            f"{row.tflops:.3g}",
            of_matmul,
            f"{row.loaded_gb_per_second:.3g}" if row.loaded_gb_per_second else "",
            of_load if row.loaded_gb_per_second else "",
            f"{row.stall_share:.1%}",
            f"{row.full_blocks:.1f}",
        )
    return shown


def parser_of_options() -> ArgumentParser:
    """The command line."""
    parser = arguments(__doc__, "gpu", 18.0)
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="flux")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="sizes of batches")
    parser.add_argument("--folder", type=Path, help="for records on disk; by default a temporary one")
    return parser


def measure(options: Namespace, folder: Path) -> tuple[Ceilings | None, list[StepRow], bool]:
    """Ceilings, rows, and whether there was time for all of them."""
    deadline, device, dtype = Deadline(options.minutes), compute_device(options.device), torch.bfloat16
    on_cpu = device.type == "cpu"
    ceilings = None
    if "ceilings" in options.only:
        ceilings = measure_ceilings(device, dtype, *((TRIAL_SIDE, TRIAL_BYTES) if on_cpu else ()))
        print(
            f"matrix products {ceilings.matmul_tflops:.4g} TFLOP/s, copies {ceilings.copy_gb_per_second:.4g} GB/s, "
            f"loads {ceilings.load_gb_per_second:.4g} GB/s",
            flush=True,
        )
    rows: list[StepRow] = []
    if set(options.only) == {"ceilings"}:
        return ceilings, rows, True
    checkpoint = random_checkpoint(options.model, dtype, device, STEPS)
    of = ARCHITECTURES[options.model]
    costs = calibrate(checkpoint.forward, UsualEdit(of.side**2, of.text_tokens, passes=1), 6.0)
    for row in step_rows(StepBench(checkpoint, options.model, costs, folder), options.only, options.batches):
        rows.append(row)
        told = " ".join(filter(None, (row.system, row.source, row.policy)))
        print(f"{told}, batch of {row.batch}, {row.active:.1%}: {row.ms.median:.2f} ms", file=sys.stderr, flush=True)
        if not deadline.left_seconds:
            return ceilings, rows, False
    return ceilings, rows, True


def main(values: Sequence[str] | None = None) -> None:
    parser = parser_of_options()
    options = parser.parse_args(values)
    quiet_libraries()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        ceilings, rows, is_whole = measure(options, Path(folder))
    about = {"model": options.model, "dtype": "bfloat16", "steps": STEPS, "minutes": options.minutes, "whole": is_whole}
    results = {"ceilings": None if ceilings is None else asdict(ceilings), "steps": [asdict(row) for row in rows]}
    write_results(options.out, "gpu", about, results)
    show(table(rows, ceilings))
    if not is_whole:
        print(f"there was no time for the rest: --minutes {options.minutes:g}", file=sys.stderr)


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := set(parts) - set(PARTS):
        raise ArgumentTypeError(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    return parts


if __name__ == "__main__":
    main()
