"""Measure the embedded model on held-out scenes; prints a table and writes JSON.

    python scripts/eval_builtin.py [--model FOLDER] [--cases 64] [--json scripts/bench/results/eval_builtin.json]
    python scripts/eval_builtin.py --cases 192 --only headline

What a model can draw is in its `concepts.json`, if it has one. The repository's atlas has pictures of 64 things; a
model that knows more needs --data, as `train_builtin.py` does, or is measured on those 64 alone.

Scenes are new; the pictured things are those it was trained on. Rows say whether the captions are ("seen") or not
("unseen"), every row its number of cases `n`. Edits are cached ones unless a row says dense. More cases than things go
round these again, with new scenes. Behind a share stands its 95 % interval (Wilson), as if the cases were independent.

Retrieval: an edit is compared with drawings of all things and coloured shapes in the same place (mean squared error,
nearest of many scales and shifts); top1 is the share of edits that are nearest to what the prompt named. "among the
pictured" are the same edits compared with the pictured things alone. The controls make new edits of the same scenes,
with another thing's prompt or none, and rank them for the first thing. Rows that say "half" are on every second case.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from math import isqrt
from pathlib import Path

import torch

from bench.environment import environment
from builtin_recipe.cases import concepts_of
from builtin_recipe.concept_file import drawable, model_concepts
from builtin_recipe.concepts import Concept
from builtin_recipe.evaluation import (
    Pictures,
    Row,
    Rows,
    autoencoder_rows,
    nothing_rows,
    pictured_rows,
    shape_rows,
    size_rows,
)
from builtin_recipe.shares import figures_in_words
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.compute_dtype import measure_dtypes
from instgenie.editor import Editor
from instgenie.host import quiet_libraries
from instgenie.records import dtype_name
from instgenie_cache import MemoryStore

MAX_CASES = 128  # unless more are asked for


def groups(
    editor: Editor, cases: int, size: int, steps: int, concepts: Sequence[Concept], pictures: Pictures
) -> dict[str, Callable[[], Rows]]:
    """What makes the rows, by the names of `--only`."""
    quarter = -(-cases // 4)

    def pictured(*, headline_alone: bool) -> Rows:
        return pictured_rows(
            editor, cases, size, steps, pictures, concepts, headline_alone=headline_alone, tell=print_row
        )

    return {
        "pictured": lambda: pictured(headline_alone=False),
        "headline": lambda: pictured(headline_alone=True),
        "shapes": lambda: shape_rows(editor, -(-cases * 3 // 8), size, steps, pictures, concepts),
        "nothing": lambda: nothing_rows(editor, quarter, size, steps, pictures, concepts),
        "sizes": lambda: size_rows(editor, quarter, size, steps, pictures, concepts),
        "autoencoder": lambda: autoencoder_rows(editor.checkpoint.codec, cases, size, pictures, concepts),
    }


GROUPS = ("pictured", "shapes", "nothing", "sizes", "autoencoder")  # `headline` is in the first


def print_row(name: str, figures: Row) -> None:
    """One line of the table, at once."""
    print(f"{name:64}", figures_in_words(figures), flush=True)


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
    parser.add_argument(
        "--only",
        choices=("headline", *GROUPS),
        nargs="+",
        default=GROUPS,
        help="rows to make; headline is pictured things asked for in unseen captions, one edit a case",
    )
    parser.add_argument("--size", type=int, help="pixels, by default the size the model works best at")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    for name in ("cases", "size", "steps"):
        if (value := getattr(options, name)) is not None and value < 1:
            parser.error(f"--{name} {value}: at least 1")
    if options.json and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: there is no folder {options.json.absolute().parent}")
    started = time.perf_counter()
    quiet_libraries()
    device = torch.device(options.device)
    editor = Editor(load_checkpoint(options.model, measure_dtypes(device).chosen, device), MemoryStore(1 << 31))
    checkpoint = editor.checkpoint
    patch = checkpoint.codec.patch
    size = options.size or isqrt(checkpoint.settings.canvas_tokens) * patch
    if size % patch:
        parser.error(f"--size {size}: whole tokens of {patch} pixels")
    concepts, pictures = drawable(options.model, options.data)
    known, shown = (len(concepts_of("pictured", some)) for some in (model_concepts(options.model), concepts))
    if shown < known:
        print(f"there are pictures of {shown} of the {known} things that it knows: the rows are of these (see --data)")
    cases = options.cases or min(MAX_CASES, shown)
    about = {
        "model": checkpoint.settings.name,
        "revision": checkpoint.revision,
        "dtype": dtype_name(checkpoint.forward.dtype),
        "steps": options.steps,
        "size": size,
        "cases": cases,
        "things": [shown, known],
    }
    results: Rows = {}
    make = groups(editor, cases, size, options.steps, concepts, pictures)
    done: list[str] = []
    for group in dict.fromkeys(options.only):
        rows = make[group]()
        for name, figures in rows.items():
            print_row(name, figures)
        results |= rows
        done.append(group)
        if options.json:  # after every group: they take minutes
            told = about | {"groups": done, "minutes": (time.perf_counter() - started) / 60}
            content = {"about": told, "environment": environment(), "results": results}
            options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
