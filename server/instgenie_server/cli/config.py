"""`instgenie config`: what the settings are, and where each value is from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instgenie_server.cli.show_table import show_table

if TYPE_CHECKING:
    from instgenie_server.settings_sources import ResolvedSettings

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings in TOML.", show_default="$INSTGENIE_CONFIG, if set"),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as limits.parts=8; may be repeated."),
]

config = typer.Typer(no_args_is_help=True, help="Settings: defaults < TOML file < environment < flags.")


@config.command()
def show(
    file: ConfigOption = None,
    assignments: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    as_toml: Annotated[bool, typer.Option("--toml", help="Print a file for --config that gives the same.")] = False,
    secrets: Annotated[bool, typer.Option("--secrets", help="With --toml: write secrets, not leave them out.")] = False,
) -> None:
    """Print the effective settings with the source of each value; secrets are masked.

    --toml adds what each of them means, and what none stands for.
    """
    from instgenie_server.settings_report import describe, to_toml
    from instgenie_server.settings_sources import parse_assignments, resolve_settings

    if as_json and as_toml:
        raise typer.BadParameter("--json and --toml exclude each other")
    if secrets and not as_toml:
        raise typer.BadParameter("--secrets goes with --toml")
    resolved = resolve_settings(file, parse_assignments(assignments or []))
    if as_toml:
        typer.echo(to_toml(resolved.settings, secrets=secrets), nl=False)
    elif as_json:
        rows = {row.key: {"value": row.value, "source": row.source} for row in describe(resolved)}
        typer.echo(json.dumps({"file": str(resolved.file) if resolved.file else None, "settings": rows}))
    else:
        _print_table(resolved)


def _print_table(resolved: ResolvedSettings) -> None:
    from rich.table import Table
    from rich.text import Text

    from instgenie_server.settings_report import describe

    table = Table("setting", "value", "source")
    for row in describe(resolved):
        value = "none" if row.value is None else str(row.value).lower() if isinstance(row.value, bool) else row.value
        source = f"file {resolved.file}" if row.source == "file" else row.source
        table.add_row(row.key, Text(str(value)), Text(source), style="" if row.source != "default" else "dim")
    show_table(table)
