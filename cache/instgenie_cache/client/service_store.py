"""Records that a cache service holds."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
from collections.abc import Coroutine
from functools import partial
from typing import Any, Self, cast, get_args

from instgenie_cache.client.cache_client import NO_LEASE, CacheClient
from instgenie_cache.client.service_lease import ServiceLease
from instgenie_cache.client.service_link import Call, Dial, LinkSettings, Purpose, ServiceLink
from instgenie_cache.client.service_writer import ServiceWriter
from instgenie_cache.errors import CacheError, ProtocolError, ServiceError
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.store import StoreStats, TemplateLease, TemplateWriter
from instgenie_cache.tiers.arena import Arena
from instgenie_cache.tiers.tier import TierName
from instgenie_cache.wire.address import Address
from instgenie_cache.wire.handshake import SharedSecret
from instgenie_cache.wire.messages import (
    ArenaUse,
    Create,
    CreateReply,
    Delete,
    Flush,
    Lease,
    LeaseReply,
    Metrics,
    Pin,
    PinReply,
    Prefetch,
    Release,
    Request,
    Stat,
    StatReply,
)

log = logging.getLogger(__name__)

_PINS_AT_A_TIME = 64  # of the 256 requests that a service takes of one connection
_PIN_ROUNDS = 6


class ServiceStore:
    """A `RecordStore` whose templates a cache service holds.

    While the service cannot be reached, every call is a miss at once: nothing is found, writers are refused. So it is
    while it is silent: from an answer that did not come in time until it is heard again. A lease ends with the
    connection on which it was taken; pins are made again on the next one.
    """

    def __init__(
        self,
        dial: Dial,
        settings: LinkSettings = LinkSettings(),  # noqa: B008 - frozen
    ) -> None:
        """Use `open`.

        Args:
            dial: makes a connection, or raises `CacheError`.
        """
        self._lock = threading.Lock()
        self._pins: dict[str, object] = {}  # with what tells one pin of a template from a later one
        self._misses_unreachable = self._leases_unreachable = 0
        self._unflushed: dict[CacheClient, int] = {}  # commits, by the connection that they were made on
        self._flushes: list[Call] = []  # that are not answered, whether or not somebody waits
        self._link = ServiceLink(dial, settings, self._pin_again)

    @classmethod
    def open(
        cls,
        address: Address,
        *,
        client: str,
        namespace: str | None = None,
        arena: ArenaUse = "read",
        secret: SharedSecret | None = None,
        settings: LinkSettings = LinkSettings(),  # noqa: B008 - frozen
    ) -> Self:
        """The store of a service that may not run yet: see `CacheClient.connect`. Never fails."""

        async def dial(purpose: Purpose) -> CacheClient:
            return await CacheClient.connect(
                address,
                client=client,
                namespace=namespace,
                arena="none" if namespace is not None or purpose == "write" else arena,
                secret=secret,
                timeout_seconds=settings.connect_seconds,
            )

        return cls(dial, settings)

    @classmethod
    def connect(
        cls,
        address: Address,
        *,
        client: str,
        namespace: str | None = None,
        arena: ArenaUse = "read",
        secret: SharedSecret | None = None,
        settings: LinkSettings = LinkSettings(),  # noqa: B008 - frozen
    ) -> Self:
        """The store of a service that runs.

        Raises:
            CacheError: it cannot be reached now.
        """
        store = cls.open(address, client=client, namespace=namespace, arena=arena, secret=secret, settings=settings)
        if not store.is_connected:
            error = store._link.error
            store.close()
            raise error or ServiceError(f"no connection to the cache service at {address}")
        return store

    @property
    def is_connected(self) -> bool:
        """Whether the service can be asked: there is a connection, and it is not silent."""
        return self._link.client is not None

    @property
    def arena(self) -> Arena | None:
        """The service's memory, where it is mapped; each connection maps it anew."""
        return self._link.arena

    @property
    def misses_unreachable(self) -> int:
        """Calls that found nothing, or did nothing, because the service could not be reached or did not answer."""
        return self._misses_unreachable

    def create(self, template: str, size: TemplateSize) -> TemplateWriter:
        """See `RecordStore`.

        Raises:
            ServiceError: the service cannot be reached.
        """
        client = self._link.client
        if client is None:
            self._count_miss()
            raise ServiceError("no connection to the cache service")
        # Writers have another connection: what was released on this one before must be free by then.
        self._link.ask(client, Release(lease=NO_LEASE))
        writing = self._link.writing_client()
        request = Create(template=template, steps=size.steps, blocks=size.blocks, record_bytes=size.record_bytes)
        reply: CreateReply = self._link.ask(writing, request).message
        note_commit = partial(self._note_commit, writing)
        return ServiceWriter(self._link, writing, reply.writer, template, size, note_commit)

    def lease(self, template: str) -> TemplateLease | None:
        """See `RecordStore`."""
        client = self._link.client
        found = None if client is None else self._try(client, Lease(template=template))
        if client is None or found is None:
            self._count_miss(is_lease=True)
            return None
        reply: LeaseReply = found
        if reply.lease is None:
            return None
        if reply.tier not in get_args(TierName):
            self._link.tell(client, Release(lease=reply.lease))
            raise ProtocolError(f"the service knows no tier {reply.tier[:40]!r}")
        size = TemplateSize(reply.steps, reply.blocks, reply.record_bytes)
        tier = cast("TierName", reply.tier)
        return ServiceLease(self._link, client, reply.lease, template, size, tier, reply.note)

    def holds(self, template: str) -> bool:
        """See `RecordStore`."""
        return self.num_bytes(template) is not None

    def num_bytes(self, template: str) -> int | None:
        """See `RecordStore`."""
        reply: StatReply | None = self._reach(Stat(template=template))
        return None if reply is None or not reply.templates else reply.used_bytes

    def prefetch(self, template: str) -> None:
        """See `RecordStore`."""
        client = self._link.client
        if client is None:
            self._count_miss()
        else:
            self._link.tell(client, Prefetch(template=template))

    def delete(self, template: str) -> None:
        """See `RecordStore`. Where the service cannot be reached it is not deleted, which is logged."""
        self._forget_pin(template)
        if self._reach(Delete(template=template)) is None:
            log.warning("template %s was not deleted: the cache service cannot be reached", template)

    def pin(self, template: str) -> bool:
        """See `RecordStore`. The pin also ends where the template is gone when the service is back."""
        pin = object()
        with self._lock:
            before = self._pins.get(template)
            self._pins[template] = pin  # now, in case the connection is another one when the answer is here
        reply: PinReply | None = None
        try:
            reply = self._reach(Pin(template=template))
        finally:
            if reply is None and before is None and self._end_pin(template, pin):
                self._tell_unpinned(self._link.client, template)  # a newer one may have it
        if reply is not None and not reply.held:
            self._end_pin(template, pin)
        return reply is not None and reply.held

    def unpin(self, template: str) -> None:
        """See `RecordStore`."""
        self._forget_pin(template)
        self._reach(Pin(template=template, pinned=False))

    def flush(self) -> None:
        """See `RecordStore`. What went wrong with an earlier one, after its deadline, is told too.

        Raises:
            ServiceError: it is not known whether what was committed is durable.
        """
        with self._lock:
            commits = dict(self._unflushed)
        if not commits:
            return
        if self._link.client is None:
            raise ServiceError("no connection to the cache service: what was committed may not be durable")
        client = self._link.writing_client()
        failed = self._flush(client)
        with self._lock:
            for connection, number in commits.items():
                if self._unflushed.get(connection) == number:  # else there were more meanwhile
                    del self._unflushed[connection]
        if failed is not None:
            raise failed
        if commits.keys() != {client}:
            raise ServiceError("the connection was made anew: what was committed before may not be durable")

    def _flush(self, client: CacheClient) -> CacheError | None:
        """What was said since to flushes that nobody waits for any more."""
        call = self._link.start(client, Flush())
        with self._lock:
            self._flushes.append(call)
        try:
            call.result(self._link.settings.flush_seconds, is_kept=True)
        finally:
            with self._lock:
                answered = [asked for asked in self._flushes if asked.is_answered]
                self._flushes = [asked for asked in self._flushes if asked not in answered]
        return next((asked.error for asked in answered if asked.error is not None), None)

    def close(self) -> None:
        """See `RecordStore`."""
        try:
            self.flush()
        except CacheError as error:
            log.warning("%s", error)
        self._link.close()

    def metrics(self) -> bytes:
        """The service's metrics in Prometheus' text format; empty where it cannot be reached.

        Raises:
            CacheError: they are not for this client, which is bound to a namespace.
        """
        client = self._link.client
        try:
            return b"" if client is None else b"".join(self._link.ask(client, Metrics()).payload)
        except ServiceError as error:
            log.warning("%s", error)
            return b""

    def stats(self) -> StoreStats:
        """See `RecordStore`. Misses are the service's, and the leases that could not be asked for."""
        reply: StatReply | None = self._reach(Stat(), is_counted=False)
        missed = self._leases_unreachable
        if reply is None:
            return StoreStats(0, 0, 0, 0, missed, 0)
        return StoreStats(
            reply.templates,
            reply.used_bytes,
            reply.budget_bytes,
            reply.hits,
            reply.misses + missed,
            reply.evicted_templates,
        )

    def _reach(self, request: Request, *, is_counted: bool = True) -> Any | None:
        """The reply, or None where the service cannot be reached.

        Raises:
            CacheError: the service says that it failed.
        """
        client = self._link.client
        reply = None if client is None else self._try(client, request)
        if reply is None and is_counted:
            self._count_miss()
        return reply

    def _try(self, client: CacheClient, request: Request) -> Any | None:
        try:
            return self._link.ask(client, request).message
        except ServiceError as error:
            log.warning("%s", error)
            return None

    def _count_miss(self, *, is_lease: bool = False) -> None:
        with self._lock:
            self._misses_unreachable += 1
            self._leases_unreachable += is_lease

    def _note_commit(self, connection: CacheClient) -> None:
        with self._lock:
            self._unflushed[connection] = self._unflushed.get(connection, 0) + 1

    def _pin_again(self, client: CacheClient) -> Coroutine[Any, Any, None]:
        """On the link's thread, with a new connection: what is to be done there."""
        with self._lock:
            return self._pin_all(client, list(self._pins))

    async def _pin_all(self, client: CacheClient, templates: list[str]) -> None:
        for failures in range(1, _PIN_ROUNDS + 1):
            failed = []
            for begin in range(0, len(templates), _PINS_AT_A_TIME):
                some = templates[begin : begin + _PINS_AT_A_TIME]
                are_settled = await asyncio.gather(*(self._pin_once_more(client, template) for template in some))
                failed += [template for template, is_settled in zip(some, are_settled, strict=True) if not is_settled]
            templates = failed
            if not templates or client.is_closed:
                return
            await asyncio.sleep(self._link.settings.backoff.pause_seconds(failures, random.random()))
        log.warning("%d templates are not pinned any more, %s among them", len(templates), templates[0])

    async def _pin_once_more(self, client: CacheClient, template: str) -> bool:
        """Whether it needs no other attempt."""
        with self._lock:
            pin = self._pins.get(template)
        if pin is None:
            return True
        reply: PinReply
        try:
            reply, _ = await client.request(
                Pin(template=template), deadline_seconds=self._link.settings.deadline_seconds
            )
        except CacheError as error:
            log.info("template %s is not pinned again: %s", template, error)
            return False
        if not reply.held:
            self._end_pin(template, pin)
        else:
            self._tell_unpinned(client, template)  # where it was given up meanwhile
        return True

    def _end_pin(self, template: str, pin: object) -> bool:
        """Whether this is its end: it was not pinned once more since."""
        with self._lock:
            is_last = self._pins.get(template) is pin
            if is_last:
                del self._pins[template]
            return is_last

    def _tell_unpinned(self, client: CacheClient | None, template: str) -> None:
        """Unless it is pinned."""
        with self._lock:  # so that it is sent before a pin that is made from now on
            if client is not None and template not in self._pins:
                self._link.tell(client, Pin(template=template, pinned=False))

    def _forget_pin(self, template: str) -> None:
        with self._lock:
            self._pins.pop(template, None)
