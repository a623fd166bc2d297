"""The templates that one connection writes, and the records that it puts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field

from instgenie_cache.errors import CacheError, StoreFullError
from instgenie_cache.names import is_template_name, is_within
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.service.announced_bytes import AnnouncedBytes
from instgenie_cache.service.reading_gate import ReadingGate
from instgenie_cache.service.served_store import ServedStore, ServedWriter
from instgenie_cache.service.session_limits import SessionLimits
from instgenie_cache.service.unflushed_writers import UnflushedWriters
from instgenie_cache.service.workers import Workers
from instgenie_cache.wire.frames import SinkBusyError
from instgenie_cache.wire.messages import Commit, Create, Put

log = logging.getLogger(__name__)

INLINE_BYTES = 1 << 20  # whose checksum takes less than the way to a thread and back
MAX_COST_MS = 3_600_000.0  # no template takes an hour: a higher cost would keep it for ever
_POLL_SECONDS = (0.002, 0.1)  # between two looks for room, first and at most


@dataclass(slots=True, eq=False)
class _Upload:
    """A writer. With an error it is aborted, and whatever else is said of it is answered by that.

    Attributes:
        is_busy: a record is on its way to a slot, or is being verified there.
        used: when a put was last heard of, as the loop tells time.
    """

    writer: ServedWriter
    size: TemplateSize
    used: float
    announced_bytes: int = 0
    is_busy: bool = False
    error: CacheError | None = None
    idle_timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class IncomingPut:
    """A put whose payload is being received, or thrown away because of an error or as nobody wants it."""

    request: Put
    payload_bytes: int
    upload: _Upload | None = None
    error: CacheError | None = None
    is_wanted: bool = True
    views: Sequence[memoryview] | None = field(default=None, repr=False)


class SessionWriters:
    """Writers of one connection. Payloads go straight to the store's memory.

    While a record waits for room, or is verified by a thread, nothing is read from the connection. So a writer is never
    aborted while a payload is on its way to one of its slots, and whatever a client sends, credits or not, the service
    has one record of it at a time that is not answered.
    """

    def __init__(
        self,
        store: ServedStore,
        workers: Workers,
        gate: ReadingGate,
        limits: SessionLimits,
        announced: AnnouncedBytes,
        namespace: str | None,
    ) -> None:
        self._store, self._workers, self._gate = store, workers, gate
        self._limits, self._announced, self._namespace = limits, announced, namespace
        self._loop = asyncio.get_running_loop()
        self._uploads: dict[int, _Upload] = {}
        self._last_number = 0
        self._unflushed = UnflushedWriters(workers, limits.unflushed)
        self._verifying: _Upload | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._is_closed = False

    def create(self, request: Create) -> int:
        """Begin a template: the number of its writer.

        Raises:
            CacheError: its name or size is none, it is another tenant's, there are too many writers, or no room.
        """
        if not is_template_name(request.template):
            raise CacheError(f"{request.template[:80]!r} cannot be a template's name")
        if not is_within(request.template, self._namespace):
            raise CacheError(f"template {request.template} is not within namespace {self._namespace!r}")
        if not (request.steps and request.blocks and request.record_bytes):
            raise CacheError("a template has at least one step, one block and one byte a record")
        if len(self._uploads) >= self._limits.writers:
            raise CacheError(f"{self._limits.writers} writers are open on this connection, more are not allowed")
        size = TemplateSize(request.steps, request.blocks, request.record_bytes)
        self._announced.take(self._namespace, size.stored_bytes)
        try:
            writer = self._store.create(request.template, size)
        except BaseException:
            self._announced.give(self._namespace, size.stored_bytes)
            raise
        upload = _Upload(writer, size, self._loop.time(), size.stored_bytes)
        upload.idle_timer = self._loop.call_later(self._limits.idle_seconds, self._look_at, upload)
        self._last_number += 1
        self._uploads[self._last_number] = upload
        return self._last_number

    def begin_put(self, request: Put, payload_bytes: int) -> IncomingPut:
        """A put's header has come. `end_put` or `drop_put` is to follow, unless the connection ends."""
        incoming = IncomingPut(request, payload_bytes)
        upload = self._uploads.get(request.writer)
        if upload is None:
            incoming.error = CacheError(f"there is no writer {request.writer}")
            return incoming
        incoming.upload = upload
        upload.used = self._loop.time()
        if upload.error is not None:
            incoming.error = upload.error
        elif payload_bytes != upload.size.stored_record_bytes:
            incoming.error = CacheError(
                f"a record of {payload_bytes} bytes, {upload.size.stored_record_bytes} were announced, header included"
            )
            self._fail(upload, incoming.error)
        else:
            upload.is_busy = True
        return incoming

    def sink(self, incoming: IncomingPut) -> Sequence[memoryview] | None:
        """Where the payload goes; None where it is thrown away.

        Raises:
            SinkBusyError: there is no room yet; the gate is held until there is, or it was waited for long enough.
        """
        if not self._look_for_room(incoming):
            self._gate.hold("room")
            self._waiting = asyncio.create_task(self._wait_for_room(incoming))
            raise SinkBusyError
        return incoming.views

    def end_put(self, incoming: IncomingPut) -> Awaitable[None] | None:
        """A put's payload has come: verify it, a large one in a thread, which is to be awaited.

        Raises:
            CacheError: it was refused, or is no such record. The awaitable raises it, too.
        """
        upload = incoming.upload
        if upload is not None:
            upload.used = self._loop.time()
        if incoming.error is not None:
            raise incoming.error
        assert upload is not None
        if not incoming.is_wanted:
            upload.is_busy = False
            return None
        if incoming.payload_bytes > INLINE_BYTES:
            self._gate.hold("verify")
            self._verifying = upload
            return self._verify(upload, incoming.request)
        try:
            _fill(upload, incoming.request)
        except BaseException as error:
            self._fail(upload, error)
            raise
        upload.is_busy = False
        return None

    def drop_put(self, incoming: IncomingPut, error: Exception) -> None:
        """A put's payload has come and was not verified: what is in its slot may be anything."""
        if incoming.upload is not None:
            self._fail(incoming.upload, error)

    def commit(self, request: Commit) -> ServedWriter:
        """Make a template visible; the writer ends, but can be waited for.

        Raises:
            CacheError: there is no such writer, one of its puts was refused, or the store refuses the commit.
        """
        upload = self._uploads.pop(request.writer, None)
        if upload is None:
            raise CacheError(f"there is no writer {request.writer}")
        self._let_go(upload)
        if upload.error is not None:
            raise upload.error
        upload.writer.commit(min(request.cost_ms, MAX_COST_MS), steps=request.steps, note=request.note)
        return upload.writer

    def remember(self, writer: ServedWriter) -> None:
        """The next `flush` is to tell of this one."""
        self._unflushed.add(writer)

    async def wait_durable(self, writer: ServedWriter) -> None:
        """Wait until what was committed is on disk.

        Raises:
            CacheError: it could not be made durable.
        """
        await self._workers.run_slow(writer.wait_durable)

    async def flush(self) -> None:
        """See `UnflushedWriters`."""
        await self._unflushed.flush()

    def abort(self, number: int) -> None:
        """End a writer; an unknown one is no error."""
        upload = self._uploads.pop(number, None)
        if upload is not None:
            self._let_go(upload)
            upload.writer.abort()

    def close(self) -> None:
        """The connection has ended, so nothing more comes: free everything."""
        self._is_closed = True
        if self._waiting is not None:
            self._waiting.cancel()
        for upload in self._uploads.values():
            self._let_go(upload)
            if upload is not self._verifying:  # else once its thread is done
                upload.writer.abort()
        self._uploads.clear()
        self._unflushed.clear()

    def _fail(self, upload: _Upload, error: BaseException) -> None:
        """Abort. No payload may be on its way to a slot."""
        upload.is_busy = False
        if upload.error is None:
            upload.error = error if isinstance(error, CacheError) else _fault(error)
            self._let_go(upload)
            upload.writer.abort()

    def _let_go(self, upload: _Upload) -> None:
        """What an open writer has besides its slots."""
        if upload.idle_timer is not None:
            upload.idle_timer.cancel()
            upload.idle_timer = None
        self._announced.give(self._namespace, upload.announced_bytes)
        upload.announced_bytes = 0

    def _look_at(self, upload: _Upload) -> None:
        """Abort a writer that nothing was put to for long: it keeps room, and others from writing its template."""
        idle_seconds = self._limits.idle_seconds
        now = self._loop.time()
        if upload.is_busy:
            upload.used = now
        if now < upload.used + idle_seconds:
            upload.idle_timer = self._loop.call_at(upload.used + idle_seconds, self._look_at, upload)
            return
        self._fail(upload, CacheError(f"the writer was aborted: nothing was put for {idle_seconds:g} s"))

    async def _verify(self, upload: _Upload, request: Put) -> None:
        try:
            await self._workers.run(lambda: _fill(upload, request))
        except BaseException as error:
            self._fail(upload, error)
            raise
        finally:
            self._verifying = None
            upload.is_busy = False
            if self._is_closed:
                upload.writer.abort()
            self._gate.free("verify")

    def _look_for_room(self, incoming: IncomingPut) -> bool:
        """Whether it is known what becomes of a put."""
        if incoming.views is not None or incoming.error is not None or not incoming.is_wanted:
            return True
        upload = incoming.upload
        assert upload is not None
        try:
            incoming.views = upload.writer.slot(incoming.request.step, incoming.request.block)
            incoming.is_wanted = incoming.views is not None or upload.writer.is_wanted
        except CacheError as error:
            incoming.error = error
        except Exception as error:
            log.exception("no slot for a record")
            incoming.error = _fault(error)
        if incoming.error is not None:
            self._fail(upload, incoming.error)
        return incoming.views is not None or incoming.error is not None or not incoming.is_wanted

    async def _wait_for_room(self, incoming: IncomingPut) -> None:
        # By looking again and again: a thread for each connection that waits could be hundreds.
        until = self._loop.time() + self._limits.room_seconds
        pause_seconds, longest_seconds = _POLL_SECONDS
        try:
            while not self._look_for_room(incoming):
                if self._loop.time() >= until:
                    assert incoming.upload is not None
                    incoming.error = StoreFullError(
                        f"no room for a record of {incoming.payload_bytes} bytes within {self._limits.room_seconds:g} "
                        "seconds: everything in memory is in use"
                    )
                    self._fail(incoming.upload, incoming.error)
                    break
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, longest_seconds)
        finally:
            self._waiting = None
            self._gate.free("room")


def _fill(upload: _Upload, request: Put) -> None:
    upload.writer.filled(request.step, request.block)


def _fault(error: BaseException) -> CacheError:
    return CacheError(f"the service failed: {type(error).__name__}")
