"""Tables on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def show_table(table: Table) -> None:
    """Print it, as wide as it needs to be: ids and paths are there to be copied."""
    from rich.console import Console

    console = Console()
    width = max(console.width, console.measure(table, options=console.options.update(max_width=1000)).maximum)
    Console(width=width).print(table, soft_wrap=False, crop=False)
