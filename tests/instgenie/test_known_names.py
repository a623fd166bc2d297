"""Prompts that name nothing on a model's list get a hint, others none."""

from __future__ import annotations

import pytest

from instgenie.known_names import unknown_hint

DRAWS = ("red apple", "cherries", "bus", "fox", "knife", "tie", "remove it")


@pytest.mark.parametrize(
    "prompt",
    [
        "red apple",
        "two Red Apples, please!",
        "a cherry",
        "CHERRIES",
        "a bus",
        "three buses",
        "foxes",
        "knives",
        "ties",
        "remove it.",
        " ",
    ],
)
def test_known(prompt: str) -> None:
    assert unknown_hint(prompt, "m", DRAWS) is None


@pytest.mark.parametrize("prompt", ["a unicorn", "apple", "red, but no apple", "a busy street", "übus"])
def test_unknown(prompt: str) -> None:
    hint = unknown_hint(prompt, "some-model", DRAWS)
    assert hint is not None
    assert "some-model" in hint
    assert repr(prompt) in hint
    assert "7 names: red apple" in hint


def test_a_model_without_a_list_may_draw_anything() -> None:
    assert unknown_hint("a unicorn", "m", ()) is None


def test_a_name_without_words_is_in_no_prompt() -> None:
    assert unknown_hint("a unicorn", "m", ("--", "🐈")) is not None


def test_a_hint_is_short() -> None:
    hint = unknown_hint("x" * 4000, "m", [f"thing {n}" for n in range(1000)])
    assert hint is not None
    assert len(hint) < 300
    assert "thing 875" in hint  # from all over the list
