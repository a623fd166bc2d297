"""The concepts of a large model, from emojibase's data; and how they travel with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builtin_recipe.concept_file import drawable, model_concepts, save_concepts
from builtin_recipe.concepts import CONCEPTS, PICTURED, every_caption
from builtin_recipe.emoji import Emoji, _listed, emoji_concepts, large_concepts, load_emoji, parse_emoji
from builtin_recipe.emoji_words import OTHER_NAMES, THINGS
from builtin_recipe.pictures import load_atlas
from instgenie.checkpoint import BUILTIN
from instgenie.model_settings import read_settings

EMOJI = [
    Emoji("1f34e", "red apple", ("apple", "fruit")),  # one of `concepts.py`
    Emoji("1f412", "monkey", ("banana",)),  # not among the things
    Emoji("1f435", "monkey face", ("banana",)),
    Emoji("1facf", "donkey", ("ass", "burro", "mule", "stubborn")),
    Emoji("1f42a", "camel", ("desert", "dromedary")),
    Emoji("1f453", "glasses", ("clothing", "eyeglasses")),
    Emoji("1f576", "sunglasses", ("eyeglasses",)),
    Emoji("1f6f0", "satellite", ("space",)),
    Emoji("1f97d", "goggles", ("mule",)),
]
CODES = {one.code for one in EMOJI} - {"1f6f0"}


def test_things_are_named_by_friendly_labels_and_tags_that_name_them() -> None:
    found = {concept.code: concept for concept in emoji_concepts(EMOJI, CODES)}
    assert list(found) == ["1f435", "1facf", "1f42a", "1f453", "1f576"]  # pictured ones, in their order
    assert found["1f435"].names == ("monkey",)  # "banana" is something else, "monkey face" says less
    assert found["1facf"].names == ("donkey", "burro", "mule")
    assert found["1f42a"].names == ("camel", "dromedary")
    assert found["1f453"].names == ("pair of glasses", "glasses", "eyeglasses")
    assert found["1f576"].names == ("pair of sunglasses", "sunglasses")  # the first is called by a tag of two
    assert all(concept.label == concept.names[0] for concept in found.values())


def test_a_tag_of_many_emoji_is_no_name() -> None:
    crowd = [Emoji(f"1f00{i}", f"thing {i}", ("burro",)) for i in range(2)]
    (donkey,) = (c for c in emoji_concepts([*EMOJI, *crowd], CODES) if c.code == "1facf")
    assert donkey.names == ("donkey", "mule")


def test_a_large_model_draws_what_the_small_one_does_and_more() -> None:
    concepts = large_concepts(EMOJI, CODES)
    assert set(CONCEPTS) < set(concepts)
    assert concepts == large_concepts(EMOJI, CODES)
    kinds = [concept.kind for concept in concepts]
    assert kinds == sorted(kinds, key=("pictured", "shape", "nothing").index)
    names = [name for concept in concepts for name in concept.names]
    assert len(set(names)) == len(names)
    assert "draw a big pair of glasses" in every_caption(next(c for c in concepts if c.code == "1f453"))


def test_there_are_more_than_three_hundred_things() -> None:
    labels = [item.partition(" = ")[0] for item in _listed(THINGS)]
    assert len(set(labels)) == len(labels)
    assert len(labels) + len(PICTURED) > 400
    called = [item.partition(" = ")[2] or item for item in _listed(THINGS)]
    assert len({name.lower() for name in called}) == len(called)
    assert len(set(_listed(OTHER_NAMES))) == len(list(_listed(OTHER_NAMES)))


def test_emojibase_is_read_in_its_order(tmp_path: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"hexcode": "2601-FE0F", "label": "cloud", "order": 7, "tags": ["weather"]},
        {"hexcode": "1F1E6", "label": "regional indicator A"},
        {"hexcode": "1F435", "label": "monkey face", "order": 3},
    ]
    folder = tmp_path / "emojibase-data" / "en"
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps(entries))
    assert [one.label for one in load_emoji(tmp_path)] == ["monkey face", "cloud", "regional indicator A"]
    assert parse_emoji(entries[0]) == Emoji("2601", "cloud", ("weather",))


def test_the_embedded_model_lists_what_it_draws() -> None:
    """So that whoever asks for something else is told so."""
    listed = read_settings(BUILTIN, takes_fill=True, distilled=False).draws
    assert listed == tuple(name for concept in CONCEPTS for name in concept.names)


def test_a_model_carries_its_concepts(tmp_path: Path) -> None:
    assert model_concepts(tmp_path) == CONCEPTS
    concepts = large_concepts(EMOJI, CODES)
    save_concepts(tmp_path, concepts)
    assert model_concepts(tmp_path) == concepts


def test_only_things_with_a_picture_are_measured(tmp_path: Path) -> None:
    save_concepts(tmp_path, large_concepts(EMOJI, CODES))
    concepts, pictures = drawable(tmp_path, None)
    assert tuple(concepts) == CONCEPTS
    assert list(pictures) == list(PICTURED)
    source = tmp_path / "fluent-emoji-3d" / "assets"
    source.mkdir(parents=True)
    for code, picture in load_atlas().items():
        picture.save(source / f"{code}.webp")
    with pytest.raises(FileNotFoundError, match="code point 1f435"):
        drawable(tmp_path, tmp_path)
    for code in CODES - set(PICTURED):
        picture.save(source / f"{code}.webp")
    concepts, pictures = drawable(tmp_path, tmp_path)
    assert concepts == large_concepts(EMOJI, CODES)
    assert set(PICTURED) < set(pictures)
