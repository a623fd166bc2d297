"""Pieces of Markdown that the report's blocks are made of."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

Content = Any  # what a file of results holds

WIDTH = 120


def paragraph(text: str) -> str:
    """The text in lines as long as the README's; nothing is parted but at its spaces, and no figure from its %."""
    held = " ".join(text.split()).replace(" %", "\0%")
    return textwrap.fill(held, WIDTH, break_long_words=False, break_on_hyphens=False).replace("\0", " ")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table. A cell's | would end it, and is refused."""
    lines = [header, *rows]
    assert all(len(line) == len(header) and not any("|" in cell for cell in line) for line in lines)
    shown = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([shown[0], "|" + "---|" * len(header), *shown[1:]])


def blocks(*parts: str) -> str:
    """Paragraphs and tables one below the other."""
    return "\n\n".join(parts)


def source(file: str) -> str:
    """A link to a file of results."""
    return f"[JSON](scripts/bench/results/{file})"


def percent(share: float, digits: int = 0) -> str:
    """As `12 %`."""
    return f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 1) -> str:
    """Empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def counted(count: int, what: str) -> str:
    """As `1 round` or `2 rounds`."""
    return f"{count} {what}{'' if count == 1 else 's'}"
