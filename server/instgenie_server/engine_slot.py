"""What edits, once it is there: the server listens while the model is still being loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal

from instgenie.orders import Replica
from instgenie_server.api_error import unavailable
from instgenie_server.edit_service import EditService
from instgenie_server.fleet.fleet_replica import FleetReplica
from instgenie_server.jobs import Jobs
from instgenie_server.presence import Presence
from instgenie_server.template_registry import TemplateRegistry

Status = Literal["starting", "ok", "draining"]


@dataclass(frozen=True, slots=True)
class Engine:
    """Everything that handlers edit with.

    Attributes:
        presence: of the replica.
        fleet: what `replica` passes everything on to; None where that is a single one in this process.
    """

    replica: Replica
    jobs: Jobs
    edits: EditService
    templates: TemplateRegistry
    presence: Presence
    fleet: FleetReplica | None = None


OpenEngine = Callable[[], AbstractAsyncContextManager[Engine]]


class EngineSlot:
    """Opens an engine in the background and closes it at the end.

    Attributes:
        status: starting: no edits are taken yet. ok: they are. draining: the server stops.
    """

    def __init__(self) -> None:
        self.status: Status = "starting"
        self._engine: Engine | None = None
        self._opened = asyncio.Event()
        self._stop = asyncio.Event()
        self._error: Exception | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def if_open(self) -> Engine | None:
        """The engine; None where it is not there yet."""
        return self._engine

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            ApiError: 503, it is not there yet.
        """
        if self._engine is None:
            raise unavailable("the server is starting")
        return self._engine

    async def opened(self) -> None:
        """Wait until edits are taken; whatever prevents it is raised."""
        await self._opened.wait()
        if self._error is not None:
            raise self._error

    async def run(self, open_engine: OpenEngine) -> None:
        """Open the engine, and close it when `stop` is called. While it is opening, `stop` breaks that off."""
        self._running = asyncio.current_task()
        try:
            async with open_engine() as engine:
                self._engine = engine
                if self.status == "starting":  # not where it was told to stop meanwhile
                    self.status = "ok"
                self._opened.set()
                await self._stop.wait()
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        except Exception as error:
            if self._opened.is_set():
                raise
            self._error = error  # for `opened`, which tells it to whoever started the server
            self._opened.set()

    def stop(self) -> None:
        """Have `run` close the engine."""
        self._stop.set()
        if not self._opened.is_set() and self._running is not None:
            self._running.cancel()

    async def drain(self) -> None:
        """Take no new edits, and let running jobs come to their end."""
        self.status = "draining"
        if self._engine is not None:
            if self._engine.fleet is not None:
                self._engine.fleet.expect_end()
            await self._engine.jobs.drain()
