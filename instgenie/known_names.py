"""Whether a prompt names something that a model draws, for models that draw a short list of things."""

from __future__ import annotations

import re
from collections.abc import Sequence

EXAMPLES = 8  # names that a hint tells, about
# Endings of a plural, and what the singular may have in their place.
_ENDINGS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("es", ""), ("s", ""))


def names_one(prompt: str, draws: Sequence[str]) -> bool:
    """Whether the prompt has one of the names in it, as whole words, whatever their case and number."""
    words = [_forms(word) for word in _words(prompt)]
    return any(_has(words, [_forms(word) for word in _words(name)]) for name in draws)


def unknown_hint(prompt: str, model: str, draws: Sequence[str]) -> str | None:
    """What to tell whoever asked for something that is not on a model's list; None where there is nothing to tell.

    Args:
        prompt: an empty one asks for nothing in particular.
        model: its name.
        draws: names of all that it can draw; empty for a model that has no such list.
    """
    if not draws or not prompt.strip() or names_one(prompt, draws):
        return None
    some = ", ".join(draws[:: -(-len(draws) // EXAMPLES)])
    return f"{model} was not trained on what {prompt[:80]!r} names, but on {len(draws)} names: {some} ..."


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _forms(word: str) -> frozenset[str]:
    """The word, and what it may be the plural of."""
    return frozenset([word, *(word.removesuffix(end) + put for end, put in _ENDINGS if word.endswith(end))])


def _has(words: Sequence[frozenset[str]], name: Sequence[frozenset[str]]) -> bool:
    """Whether the name's words follow each other among the words, each in one of its forms."""
    places = range(len(words) - len(name) + 1)
    return bool(name) and any(all(words[at + i] & forms for i, forms in enumerate(name)) for at in places)
