"""`instgenie templates`: pictures that a server was asked to record, since it started."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from instgenie_server.cli.remote import DEFAULT_SERVER, ApiKeyOption, ServerOption, ask
from instgenie_server.cli.show_table import show_table

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As `instgenie templates ls` prints it.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

templates = typer.Typer(no_args_is_help=True, help="Templates of a server: pictures sent to it by `warm`.")


@templates.command()
def ls(server: ServerOption = DEFAULT_SERVER, api_key: ApiKeyOption = None, as_json: JsonOption = False) -> None:
    """List what `warm` sent since the server started, newest first. Edits add nothing to the list."""
    from instgenie_server.client import list_templates

    found = ask(server, api_key, list_templates)
    if as_json:
        typer.echo(json.dumps(found))
        return
    from rich.table import Table

    table = Table("id", "status", "size", "windows", "MB", "hits", "pinned")
    for template in found:
        size = f"{template['width']}x{template['height']}"
        table.add_row(
            *(template["id"], template["status"], size, windows_of(template)),
            *(f"{template['num_bytes'] / 1e6:.1f}", str(template["hits"]), "yes" if template["pinned"] else ""),
        )
    show_table(table)


@templates.command()
def show(
    template_id: IdArgument,
    server: ServerOption = DEFAULT_SERVER,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell all about one."""
    template = _asked("GET", template_id, "", server, api_key)
    if as_json:
        typer.echo(json.dumps(template))
        return
    error = template.pop("error", None)
    tiers = template.pop("tiers", {})
    template["tiers"] = ", ".join(f"{tier} {num_bytes / 1e6:.1f} MB" for tier, num_bytes in tiers.items())
    for name, value in template.items():
        typer.echo(f"{name}: {value}")
    if error:
        typer.echo(f"error: {error['message']}")


@templates.command()
def rm(template_id: IdArgument, server: ServerOption = DEFAULT_SERVER, api_key: ApiKeyOption = None) -> None:
    """Drop one with its records."""
    _asked("DELETE", template_id, "", server, api_key)
    typer.echo(f"dropped {template_id}", err=True)


@templates.command()
def pin(template_id: IdArgument, server: ServerOption = DEFAULT_SERVER, api_key: ApiKeyOption = None) -> None:
    """Keep its records from being evicted; those that are gone are made again."""
    status = _asked("POST", template_id, "/pin", server, api_key).get("status")
    typer.echo(f"pinned {template_id}{'' if status == 'warm' else f', which is {status}'}", err=True)


@templates.command()
def unpin(template_id: IdArgument, server: ServerOption = DEFAULT_SERVER, api_key: ApiKeyOption = None) -> None:
    """Let its records be evicted again."""
    _asked("DELETE", template_id, "/pin", server, api_key)
    typer.echo(f"unpinned {template_id}", err=True)


def windows_of(template: dict[str, Any]) -> str:
    """How many windows are recorded; of how many, while that goes on."""
    done, windows = template["windows_done"], template.get("windows")
    return str(done) if windows in (None, done) else f"{done} of {windows}"


def _asked(method: str, template_id: str, action: str, server: str, api_key: str | None) -> dict[str, Any]:
    from urllib.parse import quote

    path = f"/v1/templates/{quote(template_id, safe='')}{action}"
    return ask(server, api_key, lambda connection: connection.json(method, path))
