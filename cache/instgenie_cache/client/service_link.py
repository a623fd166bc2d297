"""A thread that keeps connections to a cache service, for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from instgenie_cache.client.backoff import Backoff
from instgenie_cache.client.cache_client import Answer, CacheClient, Into
from instgenie_cache.errors import CacheError, ServiceError
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.wire.messages import Request

log = logging.getLogger(__name__)

Purpose: TypeAlias = Literal["read", "write"]
Dial: TypeAlias = Callable[[Purpose], Awaitable[CacheClient]]

_CLOSE_SECONDS = 0.5  # for what is still to be sent when a connection is closed


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """How long things may take, with an edit waiting for them.

    Attributes:
        connect_seconds: to connect and be let in.
        deadline_seconds: for answers that need no disk. Where any answer is overdue, and nothing else was heard since
            it was asked for, the service is silent: if it stays so for as long again, the connection is given up.
        step_seconds: to read a step.
        write_seconds: that one writer may wait in all, for credit and for its commit.
        flush_seconds: until what was committed is on disk.
        retry_seconds, retry_max_seconds: between attempts to connect, at first and at most; twice as long each time.
        retry_jitter_seconds: at most so much is added to it, so that the clients of a service that was restarted do
            not all come at once.
    """

    connect_seconds: float = 5.0
    deadline_seconds: float = 2.0
    step_seconds: float = 5.0
    write_seconds: float = 10.0
    flush_seconds: float = 60.0
    retry_seconds: float = 0.1
    retry_max_seconds: float = 5.0
    retry_jitter_seconds: float = 1.0

    @property
    def backoff(self) -> Backoff:
        """Between attempts to connect."""
        return Backoff(self.retry_seconds, self.retry_max_seconds, self.retry_jitter_seconds)


class Call:
    """A request that was made, to be waited for once."""

    def __init__(self, link: ServiceLink, client: CacheClient, request: Request, into: Into | None) -> None:
        """Makes the request."""
        self._link, self._client, self._request = link, client, request
        self._answer: Future[Answer | CacheError] = Future()
        self._id = 0

        def begin() -> None:
            self._id = client.begin(request, (), self._answer.set_result, into=into)

        link.run_soon(begin)

    @property
    def is_answered(self) -> bool:
        """Whether the answer is there, or none will come."""
        return self._answer.done()

    @property
    def error(self) -> CacheError | None:
        """What went wrong, as far as it is known by now."""
        answer = self._answer.result() if self._answer.done() else None
        return answer if isinstance(answer, CacheError) else None

    def result(self, deadline_seconds: float, *, is_kept: bool = False) -> Answer:
        """Wait for the answer, if the service is not known to be silent.

        Args:
            is_kept: an answer that comes too late is looked at later.

        Raises:
            ServiceError: none came in time, or the connection ended.
            CacheError: the service says that it failed.
        """
        began = time.monotonic()
        try:
            answer = self._answer.result(0 if self._client.is_silent else deadline_seconds)
        except FutureTimeoutError as error:
            if not is_kept:
                self.forget()
            self._link.doubt(self._client, began)
            raise ServiceError(f"no answer to {self._request.op} within {deadline_seconds} s") from error
        except BaseException:  # as an interrupt from the keyboard
            self.forget()
            raise
        if isinstance(answer, CacheError):
            raise answer
        return answer

    def forget(self) -> None:
        """Nobody waits for it: what it grants is given back."""
        self._link.try_soon(self._forget)

    def _forget(self) -> None:
        if self._answer.done():
            self._client.give_back(self._id, self._request, self._answer.result())
        else:
            self._client.forget(self._id)


class ServiceLink:
    """Connects, and connects again whenever the connection ends, until it is closed.

    Writers have a connection of their own, which is made when there is the first: the service reads no more from a
    connection while a put of it waits for room, and what makes room may be a release from this very process.

    All methods are for other threads than its own, any number of them.
    """

    def __init__(
        self, dial: Dial, settings: LinkSettings, on_connected: Callable[[CacheClient], Coroutine[Any, Any, None]]
    ) -> None:
        """Returns when the first attempt to connect has succeeded or failed.

        Args:
            dial: makes a connection, or raises `CacheError`.
            on_connected: called on the link's thread with each new connection for reading, before others have it; what
                it returns is run beside, until the connection ends.
        """
        self.settings = settings
        self._dial, self._on_connected = dial, on_connected
        self.error: CacheError | None = None  # of the last attempt to connect
        self._client: CacheClient | None = None
        self._writing_client: CacheClient | None = None
        self._dialing = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._tried = threading.Event()
        self._thread = threading.Thread(target=self._main, name="instgenie-cache-link", daemon=True)
        self._thread.start()
        self._tried.wait(settings.connect_seconds + _CLOSE_SECONDS)

    @property
    def client(self) -> CacheClient | None:
        """The connection for all but writers; None while there is none, or while the service is silent."""
        client = self._client
        return None if client is None or client.is_closed or client.is_silent else client

    @property
    def arena(self) -> Arena | None:
        """The service's memory, where the connection maps it, silent or not."""
        client = self._client
        return None if client is None or client.is_closed else client.arena

    def writing_client(self) -> CacheClient:
        """The connection for writers. Where there is none it is made.

        Raises:
            CacheError: it cannot be made now.
        """
        client = self._writing_client
        if client is None or client.is_closed:
            return self._wait(self._dial_for_writers(), self.settings.deadline_seconds)
        return client

    def run_soon(self, work: Callable[[], None]) -> None:
        """Have the link's thread do something that does not wait; in the order of the calls of one thread.

        Raises:
            ServiceError: the link is closed.
        """
        if not self.try_soon(work):
            raise ServiceError("the link to the cache service is closed")

    def try_soon(self, work: Callable[[], None]) -> bool:
        """As `run_soon`, but False where the link is closed."""
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def start(self, client: CacheClient, request: Request, into: Into | None = None) -> Call:
        """Ask, and wait later.

        Raises:
            ServiceError: the service is silent, or the link is closed.
        """
        if client.is_silent:
            raise ServiceError("the cache service does not answer")
        return Call(self, client, request, into)

    def ask(self, client: CacheClient, request: Request, deadline_seconds: float | None = None) -> Answer:
        """Ask and wait, as `Call.result` does."""
        return self.start(client, request).result(
            self.settings.deadline_seconds if deadline_seconds is None else deadline_seconds
        )

    def tell(self, client: CacheClient, request: Request) -> None:
        """Ask for something whose answer does not matter. Never fails."""
        self.try_soon(lambda: _begin(client, request))

    def tell_and_wait(self, client: CacheClient, request: Request) -> None:
        """As `tell`, but return once it is answered, if the service is not silent and it does not take long."""
        answered = threading.Event()
        if self.try_soon(lambda: _begin(client, request, lambda _: answered.set())) and not client.is_silent:
            answered.wait(self.settings.deadline_seconds)

    def doubt(self, client: CacheClient, since: float) -> None:
        """An answer is overdue. If nothing was heard since then either, the service is asked whether it is there.

        Args:
            since: `time.monotonic`.
        """
        if client.heard_at < since:
            client.is_silent = True  # now, for the caller's next request
            self.try_soon(lambda: client.doubt(self.settings.deadline_seconds))

    def close(self) -> None:
        """End the connections and the thread. A second time it does nothing."""
        self.try_soon(self._cancel)
        self._thread.join(self.settings.connect_seconds)

    def _wait(self, work: Coroutine[Any, Any, CacheClient], deadline_seconds: float) -> CacheClient:
        try:
            assert self._loop is not None  # as there was a connection
            running = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError as error:  # the loop is closed
            work.close()
            raise ServiceError("the link to the cache service is closed") from error
        try:
            return running.result(deadline_seconds)
        except FutureTimeoutError as error:
            running.cancel()
            raise ServiceError(f"no connection for writers within {deadline_seconds} s") from error
        except CancelledError as error:
            raise ServiceError("the link to the cache service is closed") from error

    # On the link's thread.

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            self._loop = runner.get_loop()
            try:
                runner.run(self._live())
            except asyncio.CancelledError:
                log.debug("the link is closed")
            finally:
                self._tried.set()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _live(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._keep_connected()
        finally:
            if self._writing_client is not None:
                await _end(self._writing_client)

    async def _keep_connected(self) -> None:
        loop, settings = asyncio.get_running_loop(), self.settings
        failures = 0
        while True:
            began = loop.time()
            try:
                await self._connect_and_stay()
            except CacheError as error:
                log.info("%s", error)
            except Exception:
                log.exception("the connection to the cache service failed")
            if loop.time() - began > settings.retry_max_seconds and self.error is None:
                failures = 0  # it has lasted
                continue
            failures += 1
            await asyncio.sleep(settings.backoff.pause_seconds(failures, random.random()))

    async def _connect_and_stay(self) -> None:
        """One connection, from beginning to end.

        Raises:
            CacheError: there was none.
        """
        try:
            client = await self._dial("read")
            greeting = asyncio.create_task(_logged(self._on_connected(client)))
            self._client, self.error = client, None
        except Exception as error:
            unforeseen = ServiceError(f"no connection to the cache service: {type(error).__name__}: {error}")
            self.error = error if isinstance(error, CacheError) else unforeseen
            raise
        finally:
            self._tried.set()
        try:
            await client.wait_closed()
            log.warning("the connection to the cache service ended")
        finally:
            self._client = None
            greeting.cancel()
            await _end(client)

    async def _dial_for_writers(self) -> CacheClient:
        async with self._dialing:  # one for all who ask at a time
            client = self._writing_client
            if client is None or client.is_closed:
                client = self._writing_client = await self._dial("write")
            return client


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:
        log.exception("a new connection to the cache service was not made use of")


def _begin(
    client: CacheClient, request: Request, answered: Callable[[Answer | CacheError], None] | None = None
) -> None:
    client.begin(request, (), answered)


async def _end(client: CacheClient) -> None:
    client.close_soon()
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await client.wait_closed()
    except TimeoutError:
        client.abort()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, where it is installed: it sends large payloads without a copy."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
