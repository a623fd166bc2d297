"""The command line of the cache service: `python -m instgenie_cache --config FILE`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instgenie_cache.errors import CacheError

if TYPE_CHECKING:
    from instgenie_cache.wire.address import Address

_EXTRA = frozenset({"uvloop", "pydantic", "pydantic_core", "prometheus_client"})


def serve(
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Settings in TOML.", envvar="INSTGENIE_CACHE_CONFIG")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where the disk tier and the socket are.", show_default="~/.cache/instgenie/records"),
    ] = None,
    host_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory for records.", show_default="a quarter of the machine's")
    ] = None,
    disk_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Disk for records, 0 for none.",
            show_default="32GB, at most a quarter of what is free",
        ),
    ] = None,
    socket: Annotated[
        Path | None, typer.Option(help="Unix socket to listen at.", show_default="cache.sock in the folder")
    ] = None,
    tcp: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Listen there, too; needs secrets in the settings.")
    ] = None,
    object_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Object store below the disk.", show_default="none")
    ] = None,
    metrics_port: Annotated[
        str | None, typer.Option(metavar="PORT", help="For Prometheus, at 127.0.0.1.", show_default="none")
    ] = None,
    log_level: Annotated[str | None, typer.Option(metavar="LEVEL", help="The least that is told.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, of those that --show lists; repeatable."),
    ] = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print all settings and what they mean, as a file for --config, and end.")
    ] = False,
) -> None:
    """Keep records of templates in memory and on disk for all processes of this machine, until SIGTERM or Ctrl-C."""
    try:
        flags = _parse(assignments or [])
        named = {
            "folder": folder,
            "host_bytes": host_bytes,
            "disk_bytes": disk_bytes,
            "socket": socket,
            "tcp": tcp,
            "object_url": object_url,
            "metrics_port": metrics_port,
            "log_level": log_level,
        }
        flags |= {name: value for name, value in named.items() if value is not None}
        _run(config, flags, show)
    except CacheError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRA:
            raise
        needs = f"the cache service needs {package}, which is not installed"
        message = f"{needs}: pip install -e '.[server]' in the repository"
    else:
        return
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


def _run(config: Path | None, flags: dict[str, object], show: bool) -> None:
    from instgenie_cache.service.service_settings_report import settings_toml
    from instgenie_cache.service.service_settings_sources import load_settings

    settings = load_settings(config, flags)
    if show:
        typer.echo(settings_toml(settings), nl=False)
        return
    import uvloop

    from instgenie_cache.service.service_logs import configure_logging
    from instgenie_cache.service.service_process import run_service

    configure_logging(settings.log_level, settings.log_format)
    uvloop.run(run_service(settings, _tell))


def _tell(addresses: Sequence[Address]) -> None:
    typer.echo(f"serving at {' and '.join(map(str, addresses))}")


def _parse(assignments: Sequence[str]) -> dict[str, object]:
    pairs = [assignment.partition("=") for assignment in assignments]
    for name, equals, _ in pairs:
        if not equals:
            raise CacheError(f"--set takes NAME=VALUE, not {name!r}")
    return {name.strip(): value for name, _, value in pairs}


def main() -> None:
    """Run the command."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(serve)
    app(prog_name="python -m instgenie_cache")


if __name__ == "__main__":
    main()
