"""Measure the embedded model on held-out scenes; prints a table and writes JSON.

    python scripts/eval_builtin.py [--model FOLDER] [--cases 64] [--json scripts/bench/results/eval_builtin.json]

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
from pathlib import Path

import torch

from bench.environment import environment
from builtin_recipe.cases import concepts_of
from builtin_recipe.evaluation import Rows, autoencoder_rows, nothing_rows, pictured_rows, shape_rows, size_rows
from builtin_recipe.pictures import load_atlas
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.compute_dtype import measure_dtypes
from instgenie.editor import Editor
from instgenie.host import quiet_libraries
from instgenie.records import dtype_name
from instgenie_cache import MemoryStore


def evaluate(editor: Editor, cases: int, size: int, steps: int) -> Rows:
    """All figures, by name."""
    pictures = load_atlas()
    return {
        **pictured_rows(editor, cases, size, steps, pictures),
        **shape_rows(editor, -(-cases * 3 // 8), size, steps, pictures),
        **nothing_rows(editor, -(-cases // 4), size, steps, pictures),
        **size_rows(editor, -(-cases // 4), size, steps, pictures),
        **autoencoder_rows(editor.checkpoint.codec, cases, size, pictures),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument(
        "--cases",
        type=int,
        default=len(concepts_of("pictured")),
        help="pictured cases, the default meets every thing once; 3/8 as many of shapes, 1/4 of nothing and of sizes",
    )
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    quiet_libraries()
    device = torch.device("cpu")
    editor = Editor(load_checkpoint(options.model, measure_dtypes(device).chosen, device), MemoryStore(1 << 31))
    results = evaluate(editor, options.cases, options.size, options.steps)
    for name, figures in results.items():
        print(f"{name:50}", "  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    if options.json:
        about = {
            "model": editor.checkpoint.settings.name,
            "revision": editor.checkpoint.revision,
            "dtype": dtype_name(editor.checkpoint.forward.dtype),
            "steps": options.steps,
            "size": options.size,
            "cases": options.cases,
            "minutes": (time.perf_counter() - started) / 60,
        }
        content = {"about": about, "environment": environment(), "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
