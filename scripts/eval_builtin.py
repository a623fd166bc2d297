"""Measure the embedded model on held-out scenes and caption forms; prints a table and writes JSON.

    python scripts/eval_builtin.py [--model FOLDER] [--cases 96] [--json OUT]

Retrieval: the dense edit is compared with drawings of all pictured concepts in the same place (mean squared error,
nearest of many scales and shifts); top-1 is the share of edits that are nearest to what the prompt named.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from builtin_recipe.concepts import all_concepts
from builtin_recipe.evaluation import (
    edited_pixels,
    held_out_cases,
    nearest_shape,
    psnr_in_mask,
    ranked,
    retrieval,
)
from builtin_recipe.scenes import load_atlas
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.compute_dtype import measure_dtypes
from instgenie.editor import Editor
from instgenie_cache import MemoryStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--cases", type=int, default=96, help="pictured cases; half as many of shapes")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device("cpu")
    editor = Editor(load_checkpoint(options.model, measure_dtypes(device).chosen, device), MemoryStore(1 << 31))
    results = evaluate(editor, options.cases, options.size, options.steps)
    for name, figures in results.items():
        print(f"{name:34}", "  ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    if options.json:
        about = {"model": editor.checkpoint.settings.name, "revision": editor.checkpoint.revision}
        about |= {"dtype": str(editor.checkpoint.forward.dtype), "steps": options.steps, "size": options.size}
        options.json.write_text(json.dumps({"about": about, "results": results}, indent=1) + "\n")


def evaluate(editor: Editor, cases: int, size: int, steps: int) -> dict[str, dict[str, Any]]:
    """All figures, by name."""
    pictures = load_atlas()
    labels = [c.label for c in all_concepts() if c.kind == "pictured"]
    others = random.Random(0)
    prompted, shuffled, empty, cached, fidelity = [], [], [], [], []
    for i, case in enumerate(held_out_cases("pictured", cases, size, pictures)):
        label = case.scene.concept.label
        dense = edited_pixels(editor, case.request(steps=steps, cached=False))
        prompted.append(ranked(dense, case, label, pictures))
        shuffled.append(ranked(dense, case, others.choice([x for x in labels if x != label]), pictures))
        quick = edited_pixels(editor, case.request(steps=steps))
        cached.append(ranked(quick, case, label, pictures))
        fidelity.append(psnr_in_mask(dense, quick, case.scene.mask))
        if i % 4 == 0:
            unprompted = edited_pixels(editor, case.request(prompt="", steps=steps, cached=False))
            empty.append(ranked(unprompted, case, label, pictures))
    shapes = held_out_cases("shape", cases // 2, size, pictures)
    found = [nearest_shape(edited_pixels(editor, c.request(steps=steps, cached=False)), c) for c in shapes]
    asked = [c.scene.concept for c in shapes]
    removals = held_out_cases("nothing", cases // 4, size, pictures)
    background = [
        psnr_in_mask(edited_pixels(editor, c.request(steps=steps, cached=False)), c.scene.background, c.scene.mask)
        for c in removals
    ]
    pairs = list(zip(asked, found, strict=True))
    return {
        "retrieval, dense edit": asdict(retrieval(prompted, len(labels))),
        "retrieval, cached edit": asdict(retrieval(cached, len(labels))),
        "control: another concept's label": asdict(retrieval(shuffled, len(labels))),
        "control: empty prompt": asdict(retrieval(empty, len(labels))),
        "shapes": {
            "colour": sum(a.colour == f.colour for a, f in pairs) / len(pairs),
            "shape": sum(a.code == f.code for a, f in pairs) / len(pairs),
            "cases": len(asked),
        },
        "empty background, PSNR in mask": {"median_db": median(background), "cases": len(background)},
        "cached against dense, PSNR in mask": {
            "median_db": median(fidelity),
            "worst_db": min(fidelity),
            "cases": len(fidelity),
        },
    }


if __name__ == "__main__":
    main()
