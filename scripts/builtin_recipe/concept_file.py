"""What a trained model can draw, as a file in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from builtin_recipe.concepts import CONCEPTS, Concept
from builtin_recipe.pictures import ASSETS, load_atlas, load_pictures

CONCEPT_FILE = "concepts.json"


def save_concepts(folder: Path, concepts: Sequence[Concept]) -> None:
    """Write the folder's `concepts.json`, a line for each, in their order."""
    lines = [json.dumps(asdict(concept), ensure_ascii=False) for concept in concepts]
    (folder / CONCEPT_FILE).write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def model_concepts(folder: Path) -> Sequence[Concept]:
    """What the folder's model can draw; those of `concepts.py` where it does not say."""
    path = folder / CONCEPT_FILE
    if not path.exists():
        return CONCEPTS
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [Concept(**entry | {"names": tuple(entry["names"])}) for entry in entries]


def drawable(folder: Path, data: Path | None) -> tuple[list[Concept], Mapping[str, Image.Image]]:
    """The concepts of the folder's model that there are pictures for, and these.

    Args:
        data: folder with fluent-emoji-3d/, which has them all; None stands for the repository's atlas.
    """
    concepts = model_concepts(folder)
    codes = [concept.code for concept in concepts if concept.kind == "pictured"]
    pictures = load_atlas() if data is None else load_pictures(data / ASSETS, codes)
    return [c for c in concepts if c.kind != "pictured" or c.code in pictures], pictures
