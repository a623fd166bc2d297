"""Continuous batching in one run: join latency, what a step costs beside its forward, load, and sizes of batches.

    python scripts/bench/batching.py [--only a,b,c,d] [--steps 8] [--arrivals 32] [--quick] [--out FOLDER]

a: edits arrive while 1, 3 and 7 others run: steps until they take part. b: time between two forwards. c: Poisson
arrivals with the masks of a production trace, beside static batches, pictures handled between steps, and dense static
batches. d: throughput by size of batch and mask. `batching_*.py` say more.

All of it runs in this process, through the replica that serves: real runner, real pictures, files included. Edits of c
take fewer steps than the model's 20, so that there can be more of them: what is done once per edit weighs more than it
would. `--quick` only shows that all parts run. With --out, each part is written there, as `batching_joins.json`,
`_overhead`, `_load` with `batching_latency.svg`, and `_sizes`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))

import bench.idle_threads  # noqa: F401 - first
from bench import batching_joins, batching_overhead, batching_poisson, batching_sizes
from bench.batching_systems import Workplace
from bench.environment import environment
from instgenie.checkpoint import BUILTIN
from instgenie.load_model import load_model

PARTS = "abcd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """How much is measured.

    Attributes:
        join_steps, joins: of edits that others join; joins at each number of them.
        overhead_steps, overhead_edits: of an edit; edits at each batch size, for each of its places.
        steps, arrivals: of an edit under load; edits at each load.
        size_steps, size_rounds: of an edit in a batch of each size; how often each size has its turn.
    """

    join_steps: int = 50
    joins: int = 12
    overhead_steps: int = 20
    overhead_edits: int = 3
    steps: int = 8
    arrivals: int = 32
    size_steps: int = 20
    size_rounds: int = 2


QUICK = Amounts(join_steps=40, joins=1, overhead_edits=1, steps=2, arrivals=4, size_rounds=1)


async def measure(model: Path, parts: Sequence[str], amounts: Amounts, out: Path | None, console: Console) -> None:
    """Run the parts, print their tables and write what was measured."""
    workplace = Workplace(load_model(model))

    def write(name: str, measured: object) -> None:
        if out:
            content = {"environment": environment(), "amounts": asdict(amounts), name: measured}
            (out / f"batching_{name}.json").write_text(json.dumps(content, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        if "a" in parts:
            joins = await batching_joins.measure(workplace, Path(folder), amounts.join_steps, amounts.joins)
            console.print(batching_joins.table(joins))
            write("joins", [asdict(row) for row in joins])
        if "b" in parts:
            overheads = await batching_overhead.measure(
                workplace, Path(folder), amounts.overhead_steps, amounts.overhead_edits
            )
            console.print(batching_overhead.table(overheads))
            write("overhead", [asdict(row) for row in overheads])
        if "c" in parts:
            load = await batching_poisson.measure(workplace, amounts.steps, amounts.arrivals)
            console.print(*batching_poisson.tables(load))
            write("load", asdict(load))
            if out:
                batching_poisson.plot(load.rows, out / "batching_latency.svg")
        if "d" in parts:
            sizes = await batching_sizes.measure(workplace, Path(folder), amounts.size_steps, amounts.size_rounds)
            console.print(batching_sizes.table(sizes))
            write("sizes", [asdict(row) for row in sizes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--steps", type=int, help="of an edit under load")
    parser.add_argument("--arrivals", type=int, help="edits at each load")
    parser.add_argument("--quick", action="store_true", help="seconds, for a tiny model; figures mean nothing")
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    parts = options.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--only {options.only}: the parts are {', '.join(PARTS)}")
    chosen = {name: getattr(options, name) for name in ("steps", "arrivals") if getattr(options, name) is not None}
    if any(amount < 1 for amount in chosen.values()):
        parser.error("--steps and --arrivals: at least 1")
    amounts = replace(QUICK if options.quick else Amounts(), **chosen)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(measure(options.model, parts, amounts, options.out, Console()))


if __name__ == "__main__":
    main()
