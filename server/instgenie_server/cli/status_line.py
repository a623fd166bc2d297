"""What the command is doing, for who is watching."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

Say = Callable[[str], None]


@contextmanager
def status_line(first: str) -> Iterator[Say]:
    """A spinning line on stderr while the block runs, and a function to change its text; nothing if no terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    with console.status(first) as status:
        yield status.update
