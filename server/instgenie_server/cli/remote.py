"""Options of the commands that ask a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from instgenie_server.client import Connection

T = TypeVar("T")

DEFAULT_SERVER = "http://127.0.0.1:8731"

ServerOption = Annotated[str, typer.Option("--server", metavar="URL", help="The server.")]
ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        envvar="INSTGENIE_API_KEY",
        help="For a server that asks for one. Other users of this machine can see options: use the variable there.",
    ),
]


def ask(server: str, api_key: str | None, work: Callable[[Connection], Awaitable[T]]) -> T:
    """Run `work` with a connection to the server.

    Raises:
        ParameterError: the address is none.
        RemoteError: see `Connection`.
    """
    from instgenie_server.client import Connection

    async def run() -> T:
        async with Connection(server, api_key) as connection:
            return await work(connection)

    return asyncio.run(run())
