"""The runs that have a name, and the trainers that make them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builtin_recipe.concepts import Concept
from builtin_recipe.device_training import DeviceTrainer
from builtin_recipe.emoji import large_concepts, load_emoji
from builtin_recipe.pictures import ASSETS, load_atlas, load_pictures, pictured_codes
from builtin_recipe.recipes import CommonRecipe, DeviceRecipe, Recipe
from builtin_recipe.run import Run
from builtin_recipe.training import Trainer
from instgenie.text import BertPromptEncoder

# Recipe and minutes. Those of `gpu` are the command's: getting ready counts as well.
PRESETS: dict[str, tuple[CommonRecipe, float]] = {
    "cpu": (Recipe(), 110.0),
    "gpu": (DeviceRecipe(), 20.0),
    "smoke": (Recipe(double_blocks=1, single_blocks=1, heads=1, size=96, windows=(4, 6), batch_tokens=512), 0.15),
}


def data_concepts(data: Path, pictured: int | None = None) -> list[Concept]:
    """What can be drawn with the data's pictures; of pictured things only the first `pictured`."""
    concepts = large_concepts(load_emoji(data), pictured_codes(data / ASSETS))
    shown = [concept for concept in concepts if concept.kind == "pictured"][:pictured]
    return [*shown, *(concept for concept in concepts if concept.kind != "pictured")]


def codes_of(concepts: Sequence[Concept]) -> list[str]:
    """Code points of the pictured ones."""
    return [concept.code for concept in concepts if concept.kind == "pictured"]


def new_trainer(
    recipe: CommonRecipe,
    data: Path | None,
    encoder: BertPromptEncoder,
    device: str,
    *,
    pictured: int | None = None,
    compiled: bool = False,
) -> Run:
    """The recipe's trainer, at its start.

    Args:
        data: folder with pictures and emojibase; None takes the pictures from the repository's atlas.
        pictured: for runs whose scenes the device composites.
    """
    if isinstance(recipe, DeviceRecipe):
        assert data is not None
        concepts = data_concepts(data, pictured)
        pictures = load_pictures(data / ASSETS, codes_of(concepts))
        return DeviceTrainer(recipe, concepts, pictures, encoder, device, compiled=compiled)
    assert isinstance(recipe, Recipe)
    small = load_atlas() if data is None else load_pictures(data / ASSETS)
    return Trainer(recipe, small, encoder, device, compiled=compiled)
