"""Pieces of Markdown that the report's blocks are made of."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

_T = TypeVar("_T")
Content = Any  # what a file of results holds

WIDTH = 120
RESULTS_LINK = "scripts/bench/results"  # from the README of the project


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


def command(bench: str, content: Content) -> str:
    """What made a file of results, of a bench that runs by the minute."""
    return f"scripts/bench/{bench}.py --minutes {content['about']['minutes']:g} --out {RESULTS_LINK}"


def source(file: str) -> str:
    """A link to a file of results, from the README of the project."""
    return f"[JSON]({RESULTS_LINK}/{file})"


def picture(shows: str, file: str) -> str:
    """A picture among the results, from the README of the project."""
    return f"![{shows}]({RESULTS_LINK}/{file})"


def linked_from(folder: str, markdown: str) -> str:
    """The Markdown with its links to results as they are from a document, where `folder` is that of results."""
    return markdown.replace(f"]({RESULTS_LINK}/", "](" if folder == "." else f"]({folder}/")


def unbeaten(rows: Iterable[_T], gain: Callable[[_T], float], price: Callable[[_T], float]) -> list[_T]:
    """Those beside which no other one gives more for as low a price, or as much for a lower one; in their order."""
    rows = list(rows)
    return [
        row
        for row in rows
        if not any(
            gain(other) >= gain(row)
            and price(other) <= price(row)
            and (gain(other), price(other)) != (gain(row), price(row))
            for other in rows
        )
    ]


def percent(share: float, digits: int = 0) -> str:
    """As `12 %`."""
    return f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 1) -> str:
    """Empty where there is none."""
    return "" if value is None else f"{value:.{digits}f}"


def counted(count: int, what: str) -> str:
    """As `1 round` or `2 rounds`."""
    return f"{count} {what}{'' if count == 1 else 's'}"
