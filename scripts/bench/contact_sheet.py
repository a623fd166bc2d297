"""Contact sheet of held-out cases: the picture with its mask hatched, the dense edit, the cached edit, the prompt.

    python scripts/bench/contact_sheet.py OUT.png [--model FOLDER] [--data FOLDER] [--pictured 36] [--shapes 6]

A model that knows more things than the repository's atlas needs --data, as for `eval_builtin.py`, to show them.
Pictured things are taken from all over their list, each one once, then coloured shapes, two empty backgrounds, two
things to remove, and one thing small and big.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from math import isqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))

from builtin_recipe.cases import Case, concepts_of, held_out_cases, removal_cases, sized_cases
from builtin_recipe.concept_file import drawable
from builtin_recipe.concepts import CONCEPTS, Concept
from builtin_recipe.evaluation import Edits
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.compute_dtype import measure_dtypes
from instgenie.editor import Editor
from instgenie.host import quiet_libraries
from instgenie_cache import MemoryStore

HEADINGS = ("masked", "dense edit", "cached edit")
TILE = 128  # pixels of a shown picture
CAPTION, GAP, SEAM = 19, 10, 2  # pixels below a case, beside it, between its pictures
NOTHING, REMOVED = 2, 2  # cases
# Beyond this a README loads slowly.
MAX_BYTES = 1_500_000


def shown_cases(
    pictured: int,
    shapes: int,
    size: int,
    pictures: Mapping[str, Image.Image],
    concepts: Sequence[Concept] = CONCEPTS,
) -> list[Case]:
    """The sheet's cases; no thing is among the pictured ones twice, of which there are as many at least."""
    cases = held_out_cases("pictured", pictured, size, pictures, concepts, leap=True)
    labels = [case.scene.concept.label for case in cases]
    assert len(set(labels)) == len(labels)
    cases += held_out_cases("shape", shapes, size, pictures, concepts, leap=True)
    cases += held_out_cases("nothing", NOTHING, size, pictures, concepts)
    cases += removal_cases(REMOVED, size, pictures, concepts)
    cases += sized_cases(1, size, pictures, concepts)[0]
    return cases


def tile(editor: Edits, case: Case) -> Image.Image:
    """One case: its pictures side by side, the prompt below."""
    request = case.request()
    hatched = np.array(request.picture)
    y, x = np.indices(request.mask.shape)
    hatched[request.mask & ((x + y) // 6 % 2 == 0)] = (255, 0, 255)
    edits = [editor.edit(case.request(cached=cached)).picture for cached in (False, True)]
    strip = Image.new("RGB", (len(HEADINGS) * (TILE + SEAM), TILE + CAPTION), "white")
    for i, picture in enumerate((Image.fromarray(hatched), *edits)):
        strip.paste(picture.resize((TILE, TILE), Image.Resampling.LANCZOS), (i * (TILE + SEAM), 0))
    ImageDraw.Draw(strip).text((2, TILE), case.prompt, "black", ImageFont.load_default(14))
    return strip


def arrange(tiles: Sequence[Image.Image], columns: int) -> Image.Image:
    """The tiles row by row, with headings over each column."""
    width, height = tiles[0].width + GAP, tiles[0].height
    sheet = Image.new("RGB", (width * columns - GAP, height * -(-len(tiles) // columns) + CAPTION), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for column in range(columns):
        for i, heading in enumerate(HEADINGS):
            pen.text((column * width + i * (TILE + SEAM) + 2, 0), heading, "black", font)
    for i, one in enumerate(tiles):
        sheet.paste(one, (i % columns * width, i // columns * height + CAPTION))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--pictured", type=int, default=36)
    parser.add_argument("--shapes", type=int, default=6)
    parser.add_argument("--data", type=Path, help="folder with fluent-emoji-3d/")
    parser.add_argument("--size", type=int, help="pixels, by default the size the model works best at")
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if not options.out.absolute().parent.is_dir():
        parser.error(f"{options.out}: there is no folder {options.out.absolute().parent}")
    concepts, pictures = drawable(options.model, options.data)
    things = len(concepts_of("pictured", concepts))
    if not 0 <= options.pictured <= things:
        parser.error(f"--pictured {options.pictured}: 0 to {things}, the things that there are pictures of")
    if options.columns < 1:
        parser.error(f"--columns {options.columns}: at least 1")
    quiet_libraries()
    device = torch.device(options.device)
    editor = Editor(load_checkpoint(options.model, measure_dtypes(device).chosen, device), MemoryStore(1 << 31))
    size = options.size or isqrt(editor.checkpoint.settings.canvas_tokens) * editor.checkpoint.codec.patch
    cases = shown_cases(options.pictured, options.shapes, size, pictures, concepts)
    arrange([tile(editor, case) for case in cases], options.columns).save(options.out, optimize=True)
    written_bytes = options.out.stat().st_size
    print(f"{options.out}: {len(cases)} cases, {written_bytes / 1e6:.2f} MB")
    if written_bytes > MAX_BYTES:
        sys.exit(f"more than {MAX_BYTES / 1e6:.1f} MB: show fewer cases")


if __name__ == "__main__":
    main()
