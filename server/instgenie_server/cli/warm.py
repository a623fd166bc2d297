"""`instgenie warm`: have a server record pictures before they are edited."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instgenie_server.cli.remote import DEFAULT_SERVER, ApiKeyOption, ServerOption, ask

if TYPE_CHECKING:
    from rich.progress import TaskID

    from instgenie_server.client import Warmed, WarmItem


def warm(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures: PNG, JPEG or WebP.")],
    server: ServerOption = DEFAULT_SERVER,
    api_key: ApiKeyOption = None,
    boxes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="L,T,R,B",
            help="Pixels of what will be edited, right and bottom exclusive; may be repeated.",
            show_default="all of the picture",
        ),
    ] = None,
    max_windows: Annotated[
        int | None,
        typer.Option(help="Parts of a large picture to record where no boxes are given.", show_default="the server's"),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Of the edits to come.", show_default="the model's")] = None,
    guidance: Annotated[float | None, typer.Option(help="Of the edits to come.", show_default="the model's")] = None,
    template_prompt: Annotated[str, typer.Option(help="Prompt that the pictures are recorded with.")] = "",
    template_seed: Annotated[int, typer.Option(help="Seed that the pictures are recorded with.")] = 0,
    pin: Annotated[bool, typer.Option("--pin", help="Keep the records from being evicted.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each picture.")] = False,
) -> None:
    """Record pictures on a server. The exit code is 1 if some of them could not be used."""
    from instgenie_server.client import TemplateSettings, WarmItem, warm_all

    settings = TemplateSettings(
        tuple(map(read_box, boxes or ())), max_windows, steps, guidance, template_prompt, template_seed, pin
    )
    failed = 0

    def done(warmed: Warmed) -> None:
        nonlocal failed
        failed += warmed.template is None
        tell(warmed, as_json)
        shown.finish(warmed.item)

    with WarmProgress(len(images)) as shown:
        items = [WarmItem(path, settings) for path in images]
        ask(server, api_key, lambda connection: warm_all(connection, items, done, shown.report))
    if failed:
        raise typer.Exit(1)


def read_box(text: str) -> tuple[int, int, int, int]:
    """A box from the command line.

    Raises:
        ParameterError: these are not four whole numbers.
    """
    from instgenie.errors import ParameterError

    try:
        left, top, right, bottom = (int(part) for part in text.split(","))
    except ValueError as error:
        raise ParameterError("boxes", f"{text[:100]!r} is not LEFT,TOP,RIGHT,BOTTOM in pixels") from error
    return left, top, right, bottom


def tell(warmed: Warmed, as_json: bool) -> None:
    """One line about a picture: on stdout what became of it, on stderr what did not."""
    template = warmed.template
    if template is None:
        typer.echo(f"error: {warmed.error}", err=True)
    elif as_json:
        typer.echo(json.dumps({"image": str(warmed.item.path), **template}))
    else:
        windows = template["windows_done"]
        size = f"{windows} window{'s' * (windows != 1)}, {template['num_bytes'] / 1e6:.1f} MB"
        typer.echo(f"{template['id']}  {warmed.item.path}  {size}")


class WarmProgress(AbstractContextManager["WarmProgress"]):
    """A bar for all pictures and one for each that is being recorded, on stderr; nothing where that is no terminal."""

    def __init__(self, pictures: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # Without redirect_stdout, lines to a pipe stay in it while the bars are on the terminal.
        self._bars = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stdout=False
        )
        self._all = self._bars.add_task("pictures", total=pictures)
        self._of_items: dict[WarmItem, TaskID] = {}

    def __enter__(self) -> WarmProgress:
        self._bars.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._bars.stop()

    def report(self, item: WarmItem, done: int, windows: int | None) -> None:
        """An item has so many windows recorded."""
        if item not in self._of_items:
            self._of_items[item] = self._bars.add_task(item.path.name, total=windows)
        self._bars.update(self._of_items[item], completed=done, total=windows)

    def finish(self, item: WarmItem) -> None:
        """An item is done with."""
        self._bars.advance(self._all)
        bar = self._of_items.pop(item, None)
        if bar is not None:
            self._bars.remove_task(bar)
