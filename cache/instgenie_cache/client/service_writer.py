"""Writing a template to a cache service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from instgenie_cache.client.cache_client import Answer, CacheClient
from instgenie_cache.client.service_link import ServiceLink
from instgenie_cache.errors import CacheError, ServiceError
from instgenie_cache.records.manifest import check_note
from instgenie_cache.records.record import Record, RecordKey, encode_header
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.wire.messages import Abort, Commit, Put


class ServiceWriter(AbstractContextManager["ServiceWriter"]):
    """A `TemplateWriter` of a `ServiceStore`. For one thread at a time.

    Puts are on their way when `put` returns, not yet answered: what is wrong with one is said by a later one or by
    `commit`. Payloads are sent from the memory in which they are, so they must not change before the commit.
    """

    def __init__(
        self,
        link: ServiceLink,
        client: CacheClient,
        writer: int,
        template: str,
        size: TemplateSize,
        on_commit: Callable[[], None],
    ) -> None:
        self._link, self._client, self._writer = link, client, writer
        self._template, self._size, self._on_commit = template, size, on_commit
        self._is_open = True
        self._left_seconds = link.settings.write_seconds
        self._answered = threading.Condition()
        self._unanswered = 0
        self._error: CacheError | None = None

    def put(self, step: int, block: int, record: Record) -> None:
        """See `TemplateWriter`."""
        self._check()
        with _AbortOnError(self):
            if not self._size.has(step, block):
                raise CacheError(
                    f"step {step}, block {block} of a template of {self._size.steps} x {self._size.blocks} records"
                )
            if record.num_bytes != self._size.record_bytes:
                raise CacheError(f"a record of {record.num_bytes} bytes, {self._size.record_bytes} were announced")
            header = encode_header(RecordKey(self._template, step, block), record)
            self._send(Put(writer=self._writer, step=step, block=block), header, record.payload)

    def commit(self, cost_ms: float = 0.0, *, steps: int | None = None, note: bytes = b"") -> None:
        """See `TemplateWriter`."""
        self._check()
        with _AbortOnError(self):
            self._size.of_steps(steps)
            check_note(note)
            with self._waiting() as since, self._answered:
                if not self._answered.wait_for(self._is_settled, self._left_seconds):
                    self._link.doubt(self._client, since)
                    raise self._too_slow(f"{self._unanswered} puts were not answered")
            self._check()
            with self._waiting():
                request = Commit(writer=self._writer, cost_ms=cost_ms, steps=steps, note=note)
                self._link.ask(self._client, request, self._left_seconds)
        self._is_open = False
        self._on_commit()

    def abort(self) -> None:
        """See `TemplateWriter`. Once it returns the room is free again, unless the service is slow."""
        if self._is_open:
            self._is_open = False
            self._link.tell_and_wait(self._client, Abort(writer=self._writer))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _check(self) -> None:
        """Raises what was wrong with an earlier put."""
        if not self._is_open:
            raise CacheError("the writer was committed or aborted before")
        if self._error is not None:
            self.abort()
            raise self._error

    def _is_settled(self) -> bool:
        return self._unanswered == 0 or self._error is not None

    @contextmanager
    def _waiting(self) -> Iterator[float]:
        """Counts the time; yields when it began."""
        since = time.monotonic()
        try:
            yield since
        finally:
            self._left_seconds = max(0.0, self._left_seconds - (time.monotonic() - since))

    def _too_slow(self, what: str) -> ServiceError:
        return ServiceError(f"{what} within {self._link.settings.write_seconds} s in all")

    def _send(self, request: Put, header: bytes, payload: memoryview) -> None:
        credit_bytes = len(header) + payload.nbytes
        with self._waiting() as since:
            self._wait_for_credit(credit_bytes, since)
        with self._answered:
            self._unanswered += 1

        def begin() -> None:
            self._client.begin(request, (header, payload), self._note, credit_bytes=credit_bytes)

        if not self._link.try_soon(begin):
            self._client.credits.give(credit_bytes)
            self._note(ServiceError("the link to the cache service is closed"))

    def _wait_for_credit(self, num_bytes: int, since: float) -> None:
        granted: Future[bool] = Future()
        asked = self._client.credits.take(num_bytes, granted.set_result)
        try:
            is_granted = granted.result(self._left_seconds)
        except FutureTimeoutError as error:
            if self._client.credits.cancel(asked):
                self._link.doubt(self._client, since)
                raise self._too_slow("a put got no credit") from error
            is_granted = granted.result()  # it was told meanwhile
        if not is_granted:
            raise ServiceError("the connection to the cache service ended")

    def _note(self, answer: Answer | CacheError) -> None:
        """A put was answered. Called on the link's thread."""
        with self._answered:
            self._unanswered -= 1
            if isinstance(answer, CacheError) and self._error is None:
                self._error = answer
            if self._is_settled():
                self._answered.notify_all()


class _AbortOnError(AbstractContextManager[None]):
    def __init__(self, writer: ServiceWriter) -> None:
        self._writer = writer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._writer.abort()
