"""A replica process of another machine, for whoever keeps it running here."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from ray.exceptions import RayError

from instgenie_server.ray_engine.cluster import end_actor, reason_of
from instgenie_server.ray_engine.replica_actor import Chunk

KILL_SECONDS = 5.0


class RemoteProcess:
    """A `ChildProcess` that an actor runs. It has ended, too, when nothing is heard of the actor any more.

    Attributes:
        pid: its number on its machine.
        returncode: its exit code; that of SIGKILL where it went with its machine.
        stdout, stderr: what it writes.
    """

    def __init__(
        self,
        actor: Any,
        pid: int,
        end_actor: Callable[[Any], Awaitable[None]] = end_actor,
        kill_seconds: float = KILL_SECONDS,
    ) -> None:
        """Take over an actor whose process runs.

        Args:
            actor: ended when its process has.
            kill_seconds: for a process that is killed to end, and for that to be told.
        """
        self.pid = pid
        self.returncode: int | None = None
        self.stdout, self.stderr = asyncio.StreamReader(), asyncio.StreamReader()
        self._actor, self._end_actor, self._kill_seconds = actor, end_actor, kill_seconds
        self._following = asyncio.create_task(self._follow(), name="a process of another machine")
        self._last_call: asyncio.TimerHandle | None = None

    async def wait(self) -> int:
        """Wait until it has ended: its exit code."""
        await asyncio.wait({self._following})  # which a caller that is cancelled does not end
        return self._following.result()

    def terminate(self) -> None:
        """Have it end in order."""
        self._actor.signal.remote(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, and with it its actor where that does not tell of its end."""
        self._actor.signal.remote(signal.SIGKILL)
        if self._last_call is None:
            self._last_call = asyncio.get_running_loop().call_later(self._kill_seconds, self._following.cancel)

    async def _follow(self) -> int:
        try:
            self.returncode = await self._read()
        except RayError as error:
            self.stderr.feed_data(f"error: the process went with its Ray actor: {reason_of(error)}\n".encode())
        except asyncio.CancelledError:
            self.stderr.feed_data(b"error: nothing is heard from the process's machine\n")
        finally:
            if self.returncode is None:
                self.returncode = -signal.SIGKILL
            if self._last_call is not None:
                self._last_call.cancel()
            self.stdout.feed_eof()
            self.stderr.feed_eof()
            await self._end_actor(self._actor)
        return self.returncode

    async def _read(self) -> int:
        while isinstance(heard := await self._actor.read.remote(), Chunk):
            stream = self.stderr if heard.is_error else self.stdout
            stream.feed_data(heard.data)
        assert isinstance(heard, int)
        return heard
