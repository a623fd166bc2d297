"""`instgenie serve`: the HTTP server."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instgenie_server.cli.config import ConfigOption, SetOption
from instgenie_server.cli.loading import DtypeChoice, ModelOption, ThreadsOption
from instgenie_server.cli.status_line import status_line

if TYPE_CHECKING:
    from instgenie.orders import Replica


def serve(
    config: ConfigOption = None,
    assignments: SetOption = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="0 takes a free one.", show_default="8731")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Jobs, pictures and keys are kept here.", show_default="~/.local/share/instgenie"
        ),
    ] = None,
    model: ModelOption = None,
    dtype: Annotated[
        DtypeChoice | None, typer.Option(help="Compute dtype; auto measures which is faster.", show_default="auto")
    ] = None,
    threads: ThreadsOption = None,
    replicas: Annotated[
        int | None,
        typer.Option(help="Processes that edit.", show_default="one for each device"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="cpu|cuda:0,cuda:1...",
            help="What they compute on; they take several in turn.",
            show_default="the first GPU, else the CPU",
        ),
    ] = None,
    replica: Annotated[
        str | None,
        typer.Option(
            metavar="own|inline|ADDRESS,...",
            help="What edits: processes that are started for it, the server's process, or those that listen there.",
            show_default="own",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="processes|ray",
            help="Where replicas run: on this machine, or on a Ray cluster.",
            show_default="processes",
        ),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Note what every denoising step does in this file, for Perfetto."),
    ] = None,
) -> None:
    """Serve edits over HTTP until Ctrl-C. SIGHUP renews the replicas, one after the other."""
    import uvloop

    from instgenie_server.fleet.awaited import FirstReplicas
    from instgenie_server.fleet.open_fleet import open_replica
    from instgenie_server.logs import configure_logging
    from instgenie_server.serving import Activity
    from instgenie_server.serving import serve as run
    from instgenie_server.settings_sources import load_settings, parse_assignments

    flags: dict[str, object] = dict(parse_assignments(assignments or []))
    named = {
        "host": host,
        "port": port,
        "data_dir": data_dir,
        "engine.model": model,
        "engine.dtype": dtype.value if dtype else None,
        "engine.threads": threads,
        "engine.replicas": replicas,
        "engine.devices": device,
        "engine.replica": replica,
        "engine.kind": engine,
        "engine.trace": trace,
    }
    flags |= {key: value for key, value in named.items() if value is not None}
    settings = load_settings(config, flags)
    with status_line("loading the model") as say:
        configure_logging(settings.log)  # here, so that log lines go above the status line

        def tell(url: str) -> None:
            typer.echo(f"serving at {url} (contract: {url}/docs), Ctrl-C stops", err=True)

        def watch(now: Activity) -> None:
            edits = "1 edit" if now.edits_done == 1 else f"{now.edits_done} edits"
            say(f"{now.in_flight} in flight, {now.waiting_seconds:.1f} s of work wait or run, {edits} done")

        first_replicas = FirstReplicas()

        def opened() -> AbstractAsyncContextManager[Replica]:
            return open_replica(settings.engine, settings.cache, settings.log.level, first_replicas.expect)

        uvloop.run(run(settings, opened, tell, watch, first_replicas=first_replicas))
