"""What a GPU makes of it: a model of the size of FLUX.1 at 1024x1024 pixels, with random weights.

    python scripts/bench/gpu.py [--minutes 18] [--only ceilings,steps,loads,compiled] [--out FOLDER]
    python scripts/bench/gpu.py --device cpu --model tiny      # a trial of the script

First what the device can do at best: matrix products, copies, loads from page-locked memory. Then steps in bfloat16, of
diffusers and of ours: `steps` by share of the tokens and size of batch, records on the device; `loads` from page-locked
memory and from disk, planned in three ways, by costs that know the source; `compiled` once more with compiled blocks.
Edits of a batch share their template, without halo and refreshes, and a record is loaded once for all of them. Each
figure is told as a share of the device's best, too. Speed does not depend on weights. Nothing is fetched.

A row that fails is told and left out; so are rows that there is no time for. Results are written after each row.

FLUX.1 takes 24 GB of the device's memory for weights, 17 for records of the 6 steps of an edit, and what batches and
loads need; 35 GB of the host's, page-locked; and 17 GB of the disk that --folder is on.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench.gpu_ceilings import Ceilings, measure_ceilings
from bench.gpu_models import ARCHITECTURES, random_checkpoint
from bench.gpu_steps import MeasureError, StepBench, StepFigures, StepKind, Work, file_system
from bench.harness import Deadline, arguments, show, write_results
from instgenie.errors import ParameterError
from instgenie.host import compute_device, quiet_libraries
from instgenie.pipeline.calibration import calibrate
from instgenie.pipeline.cost import CostModel
from instgenie.pipeline.policies import PlanPolicyName
from instgenie.pipeline.probe import UsualEdit
from instgenie_cache import CacheError

SHARES = (0.05, 0.11, 0.20, 0.35, 0.50)
DISK_SHARES = (0.05, 0.20, 0.50)
USUAL = 0.11  # on average in a production trace
BATCHES = (1, 2, 4, 8, 16)
LOADED_BATCHES = (1, 4)
POLICIES: tuple[PlanPolicyName, ...] = ("always_cached", "greedy", "full_prefix")
STEPS = 6  # of an edit: the first does not count
PARTS = ("ceilings", "steps", "loads", "compiled")
TRIAL_SIDE, TRIAL_BYTES = 512, 1 << 24  # of ceilings on a CPU


@dataclass(slots=True)
class Found:
    """What was measured so far.

    Attributes:
        costs_r_squared: of the costs that plans went by, the worst of them.
        failed: what went wrong, by kind of steps.
        is_whole: whether there was time for all rows.
    """

    ceilings: Ceilings | None = None
    costs_r_squared: float | None = None
    rows: list[tuple[StepKind, StepFigures]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    is_whole: bool = True

    def results(self) -> dict[str, object]:
        """For JSON."""
        return {
            "ceilings": self.ceilings and asdict(self.ceilings),
            "costs_r_squared": self.costs_r_squared,
            "steps": [asdict(kind) | asdict(figures) for kind, figures in self.rows],
            "failed": self.failed,
            "is_whole": self.is_whole,
        }


def works(bench: StepBench, parts: Sequence[str], batches: Sequence[int]) -> Iterator[Work]:
    """All rows of these parts, one by one."""
    loaded = [batch for batch in LOADED_BATCHES if batch in batches] or [min(batches)]
    if "steps" in parts:
        yield from bench.without_records(batches)
        yield from bench.on_device(batches, SHARES)
    if "loads" in parts:
        yield from bench.from_host(loaded, SHARES, POLICIES)
        yield from bench.from_disk(loaded[:1], DISK_SHARES, POLICIES)
    if "compiled" in parts:
        bench.checkpoint.forward.compile()
        if not bench.checkpoint.forward.parts.are_compiled:
            raise MeasureError("blocks cannot be compiled here")
        yield from bench.on_device(batches, (USUAL,), "ours, compiled")


def measure(options: Namespace, folder: Path, found: Found) -> Iterator[None]:
    """Fill in what was found, row by row."""
    deadline, device, dtype = Deadline(options.minutes), compute_device(options.device), torch.bfloat16
    if "ceilings" in options.only:
        sizes = (TRIAL_SIDE, TRIAL_BYTES) if device.type == "cpu" else ()
        found.ceilings = measure_ceilings(device, dtype, *sizes)
        yield
    if set(options.only) == {"ceilings"}:
        return
    checkpoint = random_checkpoint(options.model, dtype, device, STEPS)
    costs: CostModel | None = None
    if "loads" in options.only:
        of = ARCHITECTURES[options.model]
        costs = calibrate(checkpoint.forward, UsualEdit(of.side**2, of.text_tokens, passes=1), 6.0)
        found.costs_r_squared = min(costs.r_squared.values())
    try:
        for kind, work in works(StepBench(checkpoint, options.model, folder, costs), options.only, options.batches):
            if not deadline.left_seconds:
                found.is_whole = False
                break
            try:
                found.rows.append((kind, work()))
            except (MeasureError, CacheError, RuntimeError) as error:
                found.failed[str(kind)] = f"{type(error).__name__}: {error}"
            yield
    except (MeasureError, CacheError, RuntimeError) as error:  # between two rows: the template cannot be recorded ...
        found.failed["the rest"] = f"{type(error).__name__}: {error}"


def table(found: Found) -> Table:
    """For people."""
    best, dense = found.ceilings, {kind.batch: of.ms.median for kind, of in found.rows if kind.system == "diffusers"}
    shown = Table(title="denoising steps")
    left = ("system", "records", "plan")
    right = ("batch", "tokens", "ms/edit", "speed-up", "TFLOP/s", "of best", "GB/s", "of best", "stall", "full")
    for column in (*left, *right):
        shown.add_column(column, justify="left" if column in left else "right")
    for kind, of in found.rows:
        is_loaded = bool(of.loaded_gb_per_second)
        of_load = best is not None and kind.source == "host"
        shown.add_row(
            kind.system,
            kind.source or "",
            kind.policy or "",
            str(kind.batch),
            f"{of.active:.1%}",
            f"{of.ms.median / kind.batch:.2f}",
            f"{dense[kind.batch] / of.ms.median:.2f}" if kind.batch in dense else "",
            f"{of.tflops:.3g}",
            f"{of.tflops / best.matmul_tflops:.0%}" if best else "",
            f"{of.loaded_gb_per_second:.3g}" if is_loaded else "",
            f"{of.loaded_gb_per_second / best.load_gb_per_second:.0%}" if best and of_load else "",
            f"{of.stall_share:.1%}" if is_loaded else "",
            f"{of.full_blocks:.1f}" if is_loaded else "",
        )
    return shown


def parser_of_options() -> ArgumentParser:
    """The command line."""
    parser = arguments(__doc__, "gpu", 18.0)
    parser.add_argument("--only", type=_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--model", choices=list(ARCHITECTURES), default="flux")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batches", type=_batch, nargs="+", default=BATCHES, help="sizes of batches")
    parser.add_argument("--folder", type=Path, help="for records on disk; by default a temporary one")
    return parser


def main(values: Sequence[str] | None = None) -> None:
    parser = parser_of_options()
    options = parser.parse_args(values)
    try:
        compute_device(options.device)
    except ParameterError as error:
        parser.error(str(error))
    quiet_libraries()
    found = Found()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        about = {
            "model": options.model,
            "dtype": "bfloat16",
            "steps": STEPS,
            "minutes": options.minutes,
            "file_system": file_system(Path(folder)),
        }
        for _ in measure(options, Path(folder), found):
            write_results(options.out, "gpu", about, found.results())
            if found.rows:
                kind, figures = found.rows[-1]
                print(f"{len(found.rows)} rows; {kind}: {figures.ms.median:.2f} ms", file=sys.stderr, flush=True)
        write_results(options.out, "gpu", about, found.results())
    if best := found.ceilings:
        print(f"matrix products {best.matmul_tflops:.4g} TFLOP/s", end=", ")
        print(f"copies {best.copy_gb_per_second:.4g} GB/s, loads {best.load_gb_per_second:.4g} GB/s")
    if found.rows:
        show(table(found))
        if options.model == "tiny":
            print("figures of the tiny model mean nothing: it shows that the script runs")
    for kind_name, reason in found.failed.items():
        print(f"failed: {kind_name}: {reason}", file=sys.stderr)
    if not found.is_whole:
        print(f"there was no time for the rest: --minutes {options.minutes:g}", file=sys.stderr)
    if found.failed:
        sys.exit(1)


def _parts(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    if unknown := set(parts) - set(PARTS):
        raise ArgumentTypeError(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    return parts


def _batch(text: str) -> int:
    if (size := int(text)) < 1:
        raise ArgumentTypeError(f"{size} is less than 1")
    return size


if __name__ == "__main__":
    main()
