"""What the codecs of records cost: bytes, time to decode, and how far the picture moves inside the mask.

    python scripts/bench/codecs.py [--edits 3] [--model FOLDER] [--device cpu] [--json OUT]

Held-out cases are edited with records of every codec, and densely. PSNR is between two pictures, inside the mask: "to
raw" is what the codec changes, "to dense" is all that the cache changes, raw's row what it does without a codec. The
time to decode is that of a step: all blocks, the tokens that the edit takes from the records, gathering included.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import isqrt
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.environment import environment
from builtin_recipe.cases import held_out_cases
from builtin_recipe.evaluation import edited_pixels
from builtin_recipe.measures import psnr_in_mask
from builtin_recipe.pictures import load_atlas
from instgenie.canvas import canvas_mask
from instgenie.checkpoint import BUILTIN, Checkpoint, load_checkpoint
from instgenie.codecs import CODEC_NAMES, CodecName
from instgenie.compute_dtype import measure_dtypes
from instgenie.editor import Editor
from instgenie.host import quiet_libraries
from instgenie.records import RecordForm, StepContext, dtype_name
from instgenie.request import EditRequest
from instgenie.token_index import token_index
from instgenie_cache import MemoryStore

STORE_BYTES = 1 << 31


@dataclass(frozen=True, slots=True)
class CodecFigures:
    """What a codec costs, over some edits.

    Attributes:
        template_bytes: of one template's records, the mean.
        decode_ms: of a step, the median.
        to_raw_db: PSNR to the edit with raw records, the mean; 99 where they are equal.
        worst_to_raw_db: the smallest of them.
        to_dense_db: PSNR to the dense edit, the mean.
    """

    template_bytes: float
    decode_ms: float
    to_raw_db: float
    worst_to_raw_db: float
    to_dense_db: float


@dataclass(frozen=True, slots=True)
class _Edit:
    """One edit with one codec."""

    template_bytes: int
    step_decode_ms: list[float]
    to_raw_db: float
    to_dense_db: float


def measure(checkpoint: Checkpoint, requests: Sequence[EditRequest]) -> dict[CodecName, CodecFigures]:
    """Make the edits with records of every codec: one at least, of RGB pictures that fit the model's canvas."""
    edits: dict[CodecName, list[_Edit]] = {codec: [] for codec in CODEC_NAMES}
    for request in requests:
        mask = request.mask.astype(np.float32)
        editors = {codec: Editor(checkpoint, MemoryStore(STORE_BYTES), codec=codec) for codec in CODEC_NAMES}
        dense = edited_pixels(editors["raw"], replace(request, cached=False))
        pictures = {codec: edited_pixels(editor, request) for codec, editor in editors.items()}
        for codec, editor in editors.items():
            num_bytes, decode_ms = decoding(editor, request)
            to_raw, to_dense = (psnr_in_mask(pictures[codec], other, mask) for other in (pictures["raw"], dense))
            edits[codec].append(_Edit(num_bytes, decode_ms, to_raw, to_dense))
    return {codec: _summary(of_codec) for codec, of_codec in edits.items()}


def decoding(editor: Editor, request: EditRequest) -> tuple[int, list[float]]:
    """Bytes of the records of an edit's template, and the milliseconds to decode what the edit takes of each step."""
    model = editor.checkpoint
    mask = torch.from_numpy(np.array(canvas_mask(request.mask, editor.window(request))))
    index = token_index(mask, model.codec.patch, request.halo).to(model.forward.device)
    with editor.start(request) as running:
        key, steps = running.template_key, running.steps
    num_bytes, lease = editor.num_bytes(key), editor.store.lease(key)
    assert num_bytes is not None
    assert lease is not None
    forward = model.forward
    form = RecordForm(
        forward.dtype, index.num_tokens, forward.num_heads, forward.head_dim, forward.num_blocks, editor.codec
    )
    decode_ms = []
    with lease:
        for step in range(steps):
            context = StepContext.open(lease, step, form, index.context_positions)
            assert context is not None
            started = time.perf_counter()
            for block in range(form.blocks):
                context.context(block)
            context.wait()
            decode_ms.append(1000 * (time.perf_counter() - started))
    return num_bytes, decode_ms


def table(figures: Mapping[CodecName, CodecFigures], title: str) -> Table:
    """The figures for people."""
    shown = Table(title=title)
    for column in ("codec", "MB", "of raw", "decode ms", "dB to raw", "worst", "dB to dense"):
        shown.add_column(column, justify="left" if column == "codec" else "right")
    for codec, row in figures.items():
        is_raw = codec == "raw"
        shown.add_row(
            codec,
            f"{row.template_bytes / 1e6:.1f}",
            f"{row.template_bytes / figures['raw'].template_bytes:.0%}",
            f"{row.decode_ms:.2f}",
            "" if is_raw else f"{row.to_raw_db:.1f}",
            "" if is_raw else f"{row.worst_to_raw_db:.1f}",
            f"{row.to_dense_db:.1f}",
        )
    return shown


def _summary(edits: Sequence[_Edit]) -> CodecFigures:
    return CodecFigures(
        template_bytes=mean(edit.template_bytes for edit in edits),
        decode_ms=median(ms for edit in edits for ms in edit.step_decode_ms),
        to_raw_db=mean(edit.to_raw_db for edit in edits),
        worst_to_raw_db=min(edit.to_raw_db for edit in edits),
        to_dense_db=mean(edit.to_dense_db for edit in edits),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=3)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--steps", type=int, help="by default the model's own")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.edits < 1:
        parser.error(f"--edits {options.edits}: at least 1")
    quiet_libraries()
    device = torch.device(options.device)
    checkpoint = load_checkpoint(options.model, measure_dtypes(device).chosen, device)
    size = isqrt(checkpoint.settings.canvas_tokens) * checkpoint.codec.patch
    cases = held_out_cases("pictured", options.edits, size, load_atlas(), leap=True)
    figures = measure(checkpoint, [case.request(steps=options.steps) for case in cases])
    about = {
        "model": checkpoint.settings.name,
        "dtype": dtype_name(checkpoint.forward.dtype),
        "steps": options.steps or checkpoint.settings.steps,
        "size": size,
        "edits": options.edits,
    }
    Console().print(table(figures, ", ".join(f"{name} {value}" for name, value in about.items())))
    if options.json:
        content = {
            "about": about,
            "environment": environment(),
            "results": {codec: asdict(row) for codec, row in figures.items()},
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
