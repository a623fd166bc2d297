"""`instgenie keys`: who may use a server that is reachable from the network."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instgenie_server.cli.config import ConfigOption
from instgenie_server.cli.show_table import show_table

if TYPE_CHECKING:
    from instgenie_server.access.key_file import KeyFile

DataDirOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="The server's folder.", show_default="as `instgenie config show` says"),
]

keys = typer.Typer(no_args_is_help=True, help="API keys of the server. A running one notices changes by itself.")


@keys.command()
def add(
    tenant: Annotated[str, typer.Argument(help="Whose key it is; keys of one tenant share jobs and templates.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key and print it. Only a hash of it is kept: it cannot be shown again."""
    from instgenie.errors import ParameterError

    file = _key_file(config, data_dir)
    try:
        text, key = file.add(tenant, datetime.now(UTC))
    except ValueError as error:
        raise ParameterError("tenant", str(error)) from error
    typer.echo(text)
    typer.echo(f"added {key.name} for {key.tenant} to {file.path}; keep the key, it is not shown again", err=True)
    typer.echo("keys are asked for where auth.required is true, or the server is bound beyond loopback", err=True)


@keys.command("list")
def list_(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
) -> None:
    """Print ids, tenants and when they were made, oldest first."""
    stored = _key_file(config, data_dir).read().values()
    rows = [(key.name, key.tenant, key.created_at.isoformat(timespec="seconds")) for key in stored]
    if as_json:
        typer.echo(json.dumps([dict(zip(("id", "tenant", "created_at"), row, strict=True)) for row in rows]))
        return
    from rich.table import Table

    table = Table("id", "tenant", "created")
    for row in rows:
        table.add_row(*row)
    show_table(table)


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `instgenie keys list` prints it.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Forget a key: within a second, requests with it are refused."""
    from instgenie.errors import ParameterError

    file = _key_file(config, data_dir)
    key = file.revoke(key_id.removeprefix("ig-").partition(".")[0])  # of a whole key, the id
    if key is None:
        raise ParameterError("id", f"there is no such key in {file.path}")
    typer.echo(f"revoked {key.name} of {key.tenant}", err=True)


def _key_file(config: Path | None, data_dir: Path | None) -> KeyFile:
    from instgenie_server.access.key_file import KeyFile
    from instgenie_server.settings_sources import load_settings

    return KeyFile(load_settings(config, {"data_dir": data_dir}).data_dir)
