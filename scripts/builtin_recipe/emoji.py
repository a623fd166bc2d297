"""The concepts of a large model: those of `concepts.py` and some 350 emoji, named by emojibase's labels and tags."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from builtin_recipe.concepts import CONCEPTS, PICTURED, Concept
from builtin_recipe.emoji_words import OTHER_NAMES, THINGS

# A tag that more emoji have is a topic, not a name.
MAX_EMOJI_PER_TAG = 2


@dataclass(frozen=True, slots=True)
class Emoji:
    """One entry of emojibase's data: `code` is its code points without the trailing variation selector."""

    code: str
    label: str
    tags: tuple[str, ...]


def parse_emoji(entry: Mapping[str, Any]) -> Emoji:
    """One entry of emojibase's `data.json`."""
    return Emoji(entry["hexcode"].lower().removesuffix("-fe0f"), entry["label"], tuple(entry.get("tags", ())))


def load_emoji(data: Path) -> list[Emoji]:
    """Emojibase's English data, in its order, of the folder that holds `emojibase-data`."""
    entries = json.loads((data / "emojibase-data" / "en" / "data.json").read_text(encoding="utf-8"))
    return [parse_emoji(entry) for entry in sorted(entries, key=lambda entry: entry.get("order", inf))]


def _listed(text: str) -> Iterator[str]:
    """The items of lines of comma-separated ones."""
    return (item for line in text.split("\n") for item in line.split(", ") if item)


def _clean(name: str) -> str:
    return name.replace("’", "'").lower()


def emoji_concepts(emoji: Sequence[Emoji], pictured: Collection[str]) -> list[Concept]:
    """Concepts of the things in `THINGS`, in emojibase's order; no name is given twice, nor any of `concepts.py`.

    A concept's names are what `THINGS` calls it, then those of its label and its tags that `OTHER_NAMES` has. Of two
    things with the same tag the first is called so.

    Args:
        pictured: code points that have a picture; others are left out.
    """
    wanted = {label: name or label for label, _, name in (item.partition(" = ") for item in _listed(THINGS))}
    spread = Counter(tag for one in emoji for tag in set(one.tags))
    found = [one for one in emoji if one.label in wanted and one.code in pictured and one.code not in PICTURED]
    allowed = set(_listed(OTHER_NAMES)) - {_clean(wanted[one.label]) for one in found}
    taken = {name for concept in CONCEPTS for name in concept.names}
    concepts = []
    for one in found:
        label = _clean(wanted[one.label])
        if label in taken:
            raise ValueError(f"emojibase: {label!r} is the name of two things")
        rare = [tag for tag in one.tags if spread[tag] <= MAX_EMOJI_PER_TAG]
        others = [name for name in map(_clean, (one.label, *rare)) if name in allowed and name not in taken]
        names = tuple(dict.fromkeys((label, *others)))
        taken.update(names)
        concepts.append(Concept("pictured", label, names, code=one.code))
    return concepts


def large_concepts(emoji: Sequence[Emoji], pictured: Collection[str]) -> list[Concept]:
    """Pictured things of `concepts.py`, then those of emojibase, then shapes and nothing."""
    small = [concept for concept in CONCEPTS if concept.kind == "pictured"]
    others = [concept for concept in CONCEPTS if concept.kind != "pictured"]
    return [*small, *emoji_concepts(emoji, pictured), *others]
