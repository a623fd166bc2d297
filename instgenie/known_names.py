"""Whether a prompt names something that a model draws, for models that draw a short list of things."""

from __future__ import annotations

import re
from collections.abc import Sequence

EXAMPLES = 8  # names that a hint tells, about


def names_one(prompt: str, draws: Sequence[str]) -> bool:
    """Whether the prompt has one of the names in it, as whole words, whatever their case and number."""
    words = f" {_plain(prompt)} "
    return any(f" {_plain(name)} " in words for name in draws)


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


def _plain(text: str) -> str:
    """The words alone, in lower case and the singular, as far as endings tell."""
    return " ".join(_singular(word) for word in re.findall(r"\w+", text.lower()))


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word if word.endswith("ss") else word.removesuffix("s")
