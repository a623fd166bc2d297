"""Where connections come in: each gets a handshake of its own, a bounded number at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial

from instgenie_cache.errors import CacheError
from instgenie_cache.service.listeners import Listener, prepare_accepted

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 5.0
MAX_HANDSHAKES = 64  # at a time; beyond it the oldest gives way, so that silent strangers keep nobody out
_ACCEPT_PAUSE_SECONDS = 0.1  # after a failure, as where there are no more file descriptors

Greet = Callable[[socket.socket], Awaitable[None]]


class FrontDoor:
    """Accepts at a listener until it is closed."""

    def __init__(self, listener: Listener, greet: Greet) -> None:
        """Args:
        greet: lets a connection in, and has the socket from then on; what it raises closes the socket.
        """
        self.listener, self._greet = listener, greet
        self._greetings: dict[asyncio.Task[None], None] = {}  # oldest first
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Let nobody in any more."""
        self.listener.close()
        tasks = [self._accepting, *self._greetings]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self.listener.sock)
            except OSError as error:
                log.warning("no connection could be accepted: %s", error)
                await asyncio.sleep(_ACCEPT_PAUSE_SECONDS)
                continue
            if len(self._greetings) >= MAX_HANDSHAKES:
                oldest = next(iter(self._greetings))
                del self._greetings[oldest]  # now: it ends only at the loop's next turn
                oldest.cancel()
            task = asyncio.create_task(self._let_in(sock))
            self._greetings[task] = None
            task.add_done_callback(partial(self._greeted, sock))

    async def _let_in(self, sock: socket.socket) -> None:
        try:
            prepare_accepted(sock)
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self._greet(sock)
        except (CacheError, OSError, TimeoutError) as error:
            reason = f"no hello in {HANDSHAKE_SECONDS:g} s" if isinstance(error, TimeoutError) else error
            log.info("a connection got no further than the handshake: %s", reason)
            sock.close()

    def _greeted(self, sock: socket.socket, task: asyncio.Task[None]) -> None:
        self._greetings.pop(task, None)
        if task.cancelled():  # maybe before it began
            sock.close()
        elif (error := task.exception()) is not None:
            log.error("a handshake failed", exc_info=error)
            sock.close()
