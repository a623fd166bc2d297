"""Time of a step with blocks as they are and with compiled ones, and how long compiling takes.

Two models: the embedded one with its two guidance branches, and the Flux of `engine.py`, with random inputs and
records in memory. Plain and compiled steps are timed in turn, round after round, so that a noisy machine hits both
alike; ratios are taken within a round and their median is given. On a CPU it is processor time, of all threads, which
others on the machine change less than the time that passes. `symbolic` is what `FluxForward.compile` makes, code
for all lengths; `fixed` is code for the lengths of one batch alone: what it takes to compile, each further batch would
take. Nothing is taken from an earlier run's compiler cache.

    python scripts/bench/compile.py [--rounds 3] [--device cpu] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch
from diffusers import FluxTransformer2DModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.engine import TEXT_TOKENS, medium_flux
from bench.environment import environment
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.models import parts
from instgenie.models.buckets import bucket
from instgenie.models.compiled import BlockParts
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.pipeline.probe import UsualEdit, random_probes

MASK_SHARES = (0.05, 0.2, 0.5)
BATCHES = (1, 4, 8)
HEADING = f"{'model':9}{'code':9}{'batch':>6}{'mask':>6}{'tokens':>8}{'padded':>8}{'plain ms':>10}{'ms':>10}{'x':>7}"
Clock = Callable[[], float]  # seconds
FIXED_BATCH = (4, 0.2)  # and its mask


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and the edits that it is timed with.

    Attributes:
        branches: passes of an edit at a step.
    """

    name: str
    transformer: FluxTransformer2DModel
    edit: UsualEdit
    branches: int


@dataclass(frozen=True, slots=True)
class Row:
    """One batch.

    Attributes:
        tokens, padded_tokens: of the joined tensor.
        plain_ms, compiled_ms: medians of a step; on a CPU of processor time.
        speedup: over plain blocks.
    """

    model: str
    code: str
    batch: int
    mask: float
    tokens: int
    padded_tokens: int
    plain_ms: float
    compiled_ms: float
    speedup: float


@dataclass(frozen=True, slots=True)
class Compilation:
    """How long the four parts of blocks took to compile."""

    code: str
    seconds: float


def subjects(device: torch.device) -> list[Subject]:
    """What is timed, in float32 on a CPU and in bfloat16 elsewhere."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    checkpoint = load_checkpoint(BUILTIN, dtype, device)
    text_tokens, canvas = checkpoint.settings.text_tokens, checkpoint.settings.canvas_tokens
    return [
        Subject("builtin", checkpoint.forward.transformer, UsualEdit(canvas, text_tokens), 2),
        Subject("medium", medium_flux(dtype).to(device), UsualEdit(1024, TEXT_TOKENS), 1),
    ]


def fixed_parts() -> BlockParts:
    """Compiled for each length by itself; no more than eight lengths, torch's limit of a function."""
    fixed = partial(torch.compile, dynamic=False)
    return BlockParts(
        enter_stream=fixed(parts.enter_stream),
        leave_stream=fixed(parts.leave_stream),
        enter_single=fixed(parts.enter_single),
        leave_single=fixed(parts.leave_single),
        are_compiled=True,
    )


def measure(
    plain: Callable[[], object], compiled: Callable[[], object], rounds: int, clock: Clock
) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median speed-up over the plain one of the same round."""
    pairs = [(1000 * timed(plain, clock), 1000 * timed(compiled, clock)) for _ in range(rounds + 1)][1:]
    plain_ms, compiled_ms = (median(ms) for ms in zip(*pairs, strict=True))
    return plain_ms, compiled_ms, median(one / other for one, other in pairs)


def timed(run: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds until the device is done."""
    started = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - started


def compile_symbolic(forward: FluxForward) -> Compilation:
    """Code for all lengths."""
    seconds = timed(forward.compile)
    if not forward.parts.are_compiled:
        raise SystemExit("blocks cannot be compiled here")
    return Compilation("symbolic", seconds)


def compile_fixed(forward: FluxForward, segments: Sequence[Segment]) -> Compilation:
    """Code for the lengths of these segments."""
    forward.parts = fixed_parts()
    return Compilation("fixed", timed(lambda: forward(segments)))


def segments_of(subject: Subject, batch: int, mask: float) -> list[Segment]:
    """One step of so many edits."""
    (probe,) = random_probes(FluxForward(subject.transformer), subject.edit, [(1.0, mask, batch * subject.branches)])
    return probe.segments


def bench(subject: Subject, rounds: int) -> tuple[list[Row], list[Compilation]]:
    """Time a model; rows are printed as they come."""
    plain = FluxForward(subject.transformer)
    clock = time.process_time if plain.device.type == "cpu" else time.perf_counter
    rows: list[Row] = []

    def compare(code: str, compiled: FluxForward, batch: int, mask: float) -> None:
        segments = segments_of(subject, batch, mask)
        tokens = sum(len(segment.tokens) + len(segment.text) for segment in segments)
        figures = measure(lambda: plain(segments), lambda: compiled(segments), rounds, clock)
        rows.append(Row(subject.name, code, batch, mask, tokens, bucket(tokens), *figures))
        print(line(rows[-1]), flush=True)

    symbolic, fixed = FluxForward(subject.transformer), FluxForward(subject.transformer)
    compilations = [compile_symbolic(symbolic)]
    for batch in BATCHES:
        for mask in MASK_SHARES:
            compare("symbolic", symbolic, batch, mask)
    torch._dynamo.reset()  # else the code for all lengths would serve
    compilations.append(compile_fixed(fixed, segments_of(subject, *FIXED_BATCH)))
    compare("fixed", fixed, *FIXED_BATCH)
    torch._dynamo.reset()
    for compilation in compilations:
        print(f"{subject.name}, {compilation.code}: compiled in {compilation.seconds:.1f} s", flush=True)
    return rows, compilations


def line(row: Row) -> str:
    """The row as text, under `HEADING`."""
    return (
        f"{row.model:9}{row.code:9}{row.batch:6}{row.mask:6.2f}{row.tokens:8}{row.padded_tokens:8}"
        f"{row.plain_ms:10.1f}{row.compiled_ms:10.1f}{row.speedup:7.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    compilations: dict[str, list[Compilation]] = {}
    print(HEADING)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for subject in subjects(torch.device(options.device)):
            own_rows, compilations[subject.name] = bench(subject, options.rounds)
            rows += own_rows
    if options.json:
        content = {
            "about": {"device": options.device, "rounds": options.rounds},
            "environment": environment(),
            "median_speedup": {
                code: median(r.speedup for r in rows if r.code == code) for code in ("symbolic", "fixed")
            },
            "rows": [asdict(row) for row in rows],
            "compilations": {name: [asdict(one) for one in own] for name, own in compilations.items()},
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
