"""The command line of a replica: `python -m instgenie.replica --listen ADDRESS`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from instgenie.errors import InstGenIEError, ReplicaError
from instgenie.idle_threads import let_idle_threads_sleep
from instgenie.replica.process import run_replica
from instgenie.replica.replica_settings import ReplicaSettings
from instgenie.replica.service_limits import ServiceLimits
from instgenie_cache.errors import CacheError
from instgenie_cache.service.service_logs import configure_logging
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret

ENV_PREFIX = "INSTGENIE_REPLICA"
_LIMITS = ServiceLimits()


class _UsageError(Exception):
    """Settings that cannot be."""


def serve(
    listen: Annotated[
        list[str],
        typer.Option(
            metavar="ADDRESS",
            help="unix:/path or tcp://host:port; repeatable, in the environment"
            " several are separated by spaces. A port needs a secret.",
        ),
    ],
    socket_mode: Annotated[str, typer.Option(metavar="MODE", help="Who may connect to a Unix socket.")] = "0600",
    secret_name: Annotated[str, typer.Option(help="Of the secret, as front ends know it.")] = "replica",
    secret_file: Annotated[
        Path | None, typer.Option(help="What front ends at a port have to prove; at least 16 bytes.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Model folder in the diffusers format.", show_default="the embedded model")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="auto measures which is faster.")
    ] = "auto",
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="cpu, cuda or cuda:N.", show_default="the best one")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of the CPU.", show_default="one per core")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A cache service.", show_default="this process's memory")
    ] = None,
    cache_secret_name: Annotated[str, typer.Option(help="Of the secret, as the cache service knows it.")] = "replica",
    cache_secret_file: Annotated[Path | None, typer.Option(help="What a cache service at a port asks for.")] = None,
    host_bytes: Annotated[
        int | None, typer.Option(min=0, help="Memory for records without a cache service.", show_default="half")
    ] = None,
    device_bytes: Annotated[
        int | None,
        typer.Option(min=0, help="Device memory for records.", show_default="a share of a GPU's, 0 on a CPU"),
    ] = None,
    codec: Annotated[Literal["raw", "int8", "fp8"], typer.Option(help="Of records.")] = "raw",
    drift: Annotated[
        float, typer.Option(min=0, max=1, help="A step is recorded only where it drifted by more than this.")
    ] = 0.0,
    plan: Annotated[
        Literal["auto", "off"], typer.Option(help="auto computes blocks where waiting for records takes longer.")
    ] = "auto",
    policy: Annotated[Literal["lru", "lfu", "gdsf"], typer.Option(help="Which records go first.")] = "gdsf",
    batch_edits: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Most edits in a step.", show_default="suits the device")
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens that a step computes. An edit whose first step needs more, as one that computes all "
            "tokens may, is taken only where nothing else runs.",
            show_default="suits the device",
        ),
    ] = None,
    compile: Annotated[  # noqa: A002 the option's name
        bool, typer.Option(help="Compile parts of the model, which takes up to a minute; no faster on a CPU.")
    ] = False,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Note what every step does in this file, for Perfetto.")
    ] = None,
    kept_bytes: Annotated[
        int, typer.Option(min=0, help="Of results that nobody has fetched yet.")
    ] = _LIMITS.kept_bytes,
    kept_seconds: Annotated[float, typer.Option(min=0, help="That such a result is kept.")] = _LIMITS.kept_seconds,
    orphan_seconds: Annotated[
        float, typer.Option(min=0, help="That edits go on when their front end is gone.")
    ] = _LIMITS.orphan_seconds,
    grace_seconds: Annotated[
        float, typer.Option(min=0, help="At the end, for front ends to fetch their results.")
    ] = 30.0,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="The least that is told.")
    ] = "info",
    log_format: Annotated[
        Literal["auto", "json", "text"], typer.Option(help="auto: text on a terminal, else JSON lines.")
    ] = "auto",
) -> None:
    """Edit for front ends on a device of this machine, until SIGTERM or Ctrl-C.

    Each option has an environment variable: INSTGENIE_REPLICA_ and its name in capitals.
    """
    let_idle_threads_sleep()
    try:
        _check_environment(os.environ)
        settings = ReplicaSettings(
            listen=tuple(_address("listen", text) for text in listen),
            socket_mode=_mode(socket_mode),
            secret=_secret(secret_name, secret_file),
            model=model,
            dtype=dtype,
            device=device,
            threads=threads,
            cache=None if cache is None else _address("cache", cache),
            cache_secret=_secret(cache_secret_name, cache_secret_file),
            host_bytes=host_bytes,
            device_bytes=device_bytes,
            codec=codec,
            drift=drift,
            plan=plan,
            policy=policy,
            batch_edits=batch_edits,
            batch_tokens=batch_tokens,
            compile=compile,
            trace=trace,
            grace_seconds=grace_seconds,
            limits=ServiceLimits(kept_bytes=kept_bytes, kept_seconds=kept_seconds, orphan_seconds=orphan_seconds),
        )
        if settings.secret is None and not all(address.is_unix for address in settings.listen):
            raise _UsageError("listen: a port needs a secret-file: whoever reaches it could have everything edited")
        configure_logging(log_level, log_format)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run_replica(settings, _tell))
    except ReplicaError as error:  # of its work: whoever keeps it running starts another one
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from error
    except (_UsageError, InstGenIEError, CacheError) as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(2) from error


def _tell(addresses: Sequence[Address]) -> None:
    typer.echo(f"serving at {' and '.join(map(str, addresses))}")


def _check_environment(environ: Mapping[str, str]) -> None:
    """Raise `_UsageError` where a variable is meant for this process, and none of its options."""
    options = {name for name in serve.__annotations__ if name != "return"}
    for variable in environ:
        name = variable.removeprefix(f"{ENV_PREFIX}_")
        if name != variable and name.lower() not in options:
            raise _UsageError(f"unknown environment variable {variable}")


def _address(option: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise _UsageError(f"{option}: {error}") from error


def _mode(text: str) -> int:
    if not (text.isdecimal() and set(text) <= set("01234567") and len(text) in (3, 4)):
        raise _UsageError(f"socket-mode: a file mode of octal digits such as 0600, not {text!r}")
    return int(text, 8)


def _secret(name: str, file: Path | None) -> SharedSecret | None:
    if file is None:
        return None
    try:
        return SharedSecret(name, file.read_bytes().rstrip(b"\r\n"))
    except OSError as error:
        raise _UsageError(f"{file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _UsageError(f"{file}: {error}") from error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, where it is installed: it sends large payloads without a copy."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], Any] = uvloop.new_event_loop
    return factory


def main() -> None:
    """Run the command."""
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings={"auto_envvar_prefix": ENV_PREFIX}
    )
    app.command()(serve)
    app(prog_name="python -m instgenie.replica")


if __name__ == "__main__":
    main()
