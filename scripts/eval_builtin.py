"""Measure the embedded model on held-out scenes; prints a table and writes JSON.

    python scripts/eval_builtin.py [--model FOLDER] [--cases 64] [--json scripts/bench/results/eval_builtin.json]

What a model can draw is in its `concepts.json`, if it has one. The repository's atlas has pictures of 64 things; a
model that knows more needs --data, as `train_builtin.py` does, or is measured on those 64 alone.

Scenes are new; the pictured things are those it was trained on. Rows say whether the captions are ("seen") or not
("unseen"), every row its number of cases `n`. Edits are cached ones unless a row says dense.

Retrieval: an edit is compared with drawings of all pictured things in the same place (mean squared error, nearest of
many scales and shifts); top1 is the share of edits that are nearest to what the prompt named. The controls make new
edits of the same scenes, with another thing's prompt or none, and rank them for the first thing. Rows that begin with
"half" are on every second case.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from math import isqrt
from pathlib import Path

import torch

from bench.environment import environment
from builtin_recipe.cases import concepts_of
from builtin_recipe.concept_file import drawable
from builtin_recipe.concepts import Concept
from builtin_recipe.evaluation import (
    Pictures,
    Rows,
    autoencoder_rows,
    nothing_rows,
    pictured_rows,
    shape_rows,
    size_rows,
)
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.compute_dtype import measure_dtypes
from instgenie.editor import Editor
from instgenie.host import quiet_libraries
from instgenie.records import dtype_name
from instgenie_cache import MemoryStore

MAX_CASES = 128  # unless more are asked for


def evaluate(
    editor: Editor, cases: int, size: int, steps: int, concepts: Sequence[Concept], pictures: Pictures
) -> Rows:
    """All figures, by name."""
    return {
        **pictured_rows(editor, cases, size, steps, pictures, concepts),
        **shape_rows(editor, -(-cases * 3 // 8), size, steps, pictures, concepts),
        **nothing_rows(editor, -(-cases // 4), size, steps, pictures, concepts),
        **size_rows(editor, -(-cases // 4), size, steps, pictures, concepts),
        **autoencoder_rows(editor.checkpoint.codec, cases, size, pictures, concepts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--data", type=Path, help="folder with fluent-emoji-3d/")
    parser.add_argument(
        "--cases",
        type=int,
        help=f"pictured cases, by default one of every thing, {MAX_CASES} at most; 3/8 as many of shapes, 1/4 of "
        "nothing and of sizes",
    )
    parser.add_argument("--size", type=int, help="pixels, by default the size the model works best at")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    quiet_libraries()
    device = torch.device(options.device)
    editor = Editor(load_checkpoint(options.model, measure_dtypes(device).chosen, device), MemoryStore(1 << 31))
    checkpoint = editor.checkpoint
    size = options.size or isqrt(checkpoint.settings.canvas_tokens) * checkpoint.codec.patch
    concepts, pictures = drawable(options.model, options.data)
    cases = options.cases or min(MAX_CASES, len(concepts_of("pictured", concepts)))
    results = evaluate(editor, cases, size, options.steps, concepts, pictures)
    for name, figures in results.items():
        print(f"{name:50}", "  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    if options.json:
        about = {
            "model": checkpoint.settings.name,
            "revision": checkpoint.revision,
            "dtype": dtype_name(checkpoint.forward.dtype),
            "steps": options.steps,
            "size": size,
            "cases": cases,
            "minutes": (time.perf_counter() - started) / 60,
        }
        content = {"about": about, "environment": environment(), "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
