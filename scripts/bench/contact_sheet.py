"""Contact sheet of held-out cases: template, mask, prompt, dense edit, cached edit.

python scripts/bench/contact_sheet.py OUT.png [--model FOLDER] [--cases 24]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))

from builtin_recipe.evaluation import Case, held_out_cases
from builtin_recipe.scenes import load_atlas
from instgenie.checkpoint import BUILTIN, load_checkpoint
from instgenie.compute_dtype import measure_dtypes
from instgenie.editor import Editor
from instgenie_cache import MemoryStore

HEADINGS = ("template", "mask", "dense edit", "cached edit")
CAPTION_PIXELS = 18


def tile(editor: Editor, case: Case) -> Image.Image:
    """One case: its four pictures side by side, the prompt below."""
    request = case.request()
    overlay = np.array(request.picture)
    overlay[request.mask] = (overlay[request.mask] * 0.25 + np.array([255, 0, 255]) * 0.75).astype(np.uint8)
    pictures = [request.picture, Image.fromarray(overlay), editor.dense(request).picture, editor.edit(request).picture]
    width, height = request.picture.size
    sheet = Image.new("RGB", (4 * width + 12, height + CAPTION_PIXELS + 4), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i * width, 0))
    ImageDraw.Draw(sheet).text((2, height), case.prompt, "black", ImageFont.load_default(14))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--columns", type=int, default=2)
    options = parser.parse_args()
    device = torch.device("cpu")
    editor = Editor(load_checkpoint(options.model, measure_dtypes(device).chosen, device), MemoryStore(1 << 31))
    pictures = load_atlas()
    nothing, shapes = options.cases // 12, options.cases // 6
    pictured = options.cases - nothing - shapes
    # Every second concept of the list, some of them twice: the others are not shown.
    cases = held_out_cases("pictured", 2 * pictured, options.size, pictures)[1::2]
    cases += held_out_cases("shape", shapes, options.size, pictures)
    cases += held_out_cases("nothing", nothing, options.size, pictures)
    tiles = [tile(editor, case) for case in cases]
    width, height = tiles[0].size
    rows = -(-len(tiles) // options.columns)
    sheet = Image.new("RGB", (width * options.columns, height * rows + CAPTION_PIXELS), "white")
    for i in range(options.columns):
        for j, heading in enumerate(HEADINGS):
            at = (i * width + j * options.size + 2, 0)
            ImageDraw.Draw(sheet).text(at, heading, "black", ImageFont.load_default(14))
    for i, picture in enumerate(tiles):
        sheet.paste(picture, (i % options.columns * width, i // options.columns * height + CAPTION_PIXELS))
    sheet.save(options.out)


if __name__ == "__main__":
    main()
