"""Reading a template from a cache service."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from types import TracebackType

import numpy as np

from instgenie_cache.client.cache_client import Answer, CacheClient
from instgenie_cache.client.service_link import Call, ServiceLink
from instgenie_cache.errors import CacheError, ProtocolError, ServiceError
from instgenie_cache.records.record import Record, RecordKey, decode_record
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.pages import Extent
from instgenie_cache.tiers.tier import TierName
from instgenie_cache.wire.messages import Fetch, FetchReply, Prefetch, Release

_STREAMED_STEPS = 2  # in this process's own memory
_MIN_MAPPED_STEPS = 3  # the one in use, the one before and the one that is read ahead
_ARENA_SHARE = 4


class ServiceLease(AbstractContextManager["ServiceLease"]):
    """A `TemplateLease` of a `ServiceStore`. For one thread at a time.

    While the caller uses a step, the next one is asked for: that after it in what was last given to `prefetch`, else
    the one that follows. Payloads are valid until the release, with exceptions: of a template that would fill more
    than a quarter of the service's memory, and where the bytes are sent instead of being mapped, the step that was not
    used for longest is let go when another one comes; the one in use and the one before stay.
    """

    def __init__(
        self, link: ServiceLink, client: CacheClient, lease: int, template: str, size: TemplateSize, tier: TierName
    ) -> None:
        self._link, self._client, self._lease = link, client, lease
        self._template, self._size, self._tier = template, size, tier
        self._is_open = True
        self._steps: OrderedDict[int, list[Record]] = OrderedDict()
        self._ahead: tuple[int, Call] | None = None
        self._next: dict[int, int] = {}  # as prefetch said
        self._max_steps = _STREAMED_STEPS
        if client.arena is not None:
            share_bytes = client.arena.num_bytes // _ARENA_SHARE
            self._max_steps = max(_MIN_MAPPED_STEPS, share_bytes // max(1, size.step_bytes))

    @property
    def tier(self) -> TierName:
        """See `TemplateLease`."""
        return self._tier

    @property
    def is_valid(self) -> bool:
        """See `TemplateLease`."""
        return self._is_open and not self._client.is_closed

    def prefetch(self, steps: Iterable[int]) -> None:
        """See `TemplateLease`."""
        wanted = [step for step in steps if 0 <= step < self._size.steps]
        self._next = dict(pairwise(wanted))
        if self.is_valid and wanted:
            self._link.tell(self._client, Prefetch(template=self._template, steps=wanted))

    def step(self, step: int) -> Sequence[Record] | None:
        """See `TemplateLease`."""
        self._check()
        if not 0 <= step < self._size.steps:
            return None
        records = self._steps.get(step)
        if records is None:
            records = self._receive(step)
            if records is None:
                return None
            self._steps[step] = records
        self._steps.move_to_end(step)
        self._read_ahead(self._next.get(step, step + 1))
        self._let_go()
        self._check()  # else the memory may be another step's by now
        return records

    def release(self) -> None:
        """See `TemplateLease`."""
        if self._is_open:
            self._is_open = False
            self._forget_ahead()
            self._steps.clear()
            self._link.tell(self._client, Release(lease=self._lease))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _check(self) -> None:
        if not self._is_open:
            raise CacheError("the lease was released before")
        if self._client.is_closed:
            self._steps.clear()  # so that the memory is let go where nobody uses it
            self._ahead = None
            raise ServiceError("the lease was lost with the connection to the cache service")

    def _receive(self, step: int) -> list[Record] | None:
        if self._ahead is not None and self._ahead[0] == step:
            call, self._ahead = self._ahead[1], None
        else:
            call = self._fetch(step)
        answer = call.result(self._link.settings.step_seconds)
        slab, is_verified = self._found(answer)
        if slab is None:
            return None
        if slab.num_bytes < self._size.step_bytes:
            raise ProtocolError(f"{slab.num_bytes} bytes for a step of {self._size.step_bytes}")
        return [
            decode_record(
                slab.read(self._size.offset(block), self._size.stored_record_bytes),
                RecordKey(self._template, step, block),
                verify=not is_verified,
            )
            for block in range(self._size.blocks)
        ]

    def _found(self, answer: Answer) -> tuple[Slab | None, bool]:
        """Where a step is, and whether its records were verified since they came into that memory."""
        reply: FetchReply = answer.message
        if reply.lost:
            return None, False
        if reply.pieces is None:
            return Slab([np.frombuffer(view, np.uint8) for view in answer.payload]), False
        if self._client.arena is None or not all(len(piece) == 2 for piece in reply.pieces):
            raise ProtocolError("a step is said to be in memory that is not shared")
        try:
            return self._client.arena.slab(Extent(offset, length) for offset, length in reply.pieces), True
        except CacheError:
            self._check()  # the connection has ended, and the memory with it
            raise

    def _fetch(self, step: int) -> Call:
        return self._link.start(self._client, Fetch(lease=self._lease, step=step), self._memory)

    def _memory(self, num_bytes: int) -> list[memoryview]:
        if num_bytes != self._size.step_bytes:
            raise ProtocolError(f"{num_bytes} bytes for a step of {self._size.step_bytes}")
        return [np.empty(num_bytes, np.uint8).data]

    def _read_ahead(self, step: int) -> None:
        if self._ahead is not None and self._ahead[0] == step:
            return
        self._forget_ahead()
        if step < self._size.steps and step not in self._steps and not self._client.is_silent:
            self._ahead = (step, self._fetch(step))

    def _forget_ahead(self) -> None:
        if self._ahead is not None:
            _, call = self._ahead
            self._ahead = None
            call.forget()

    def _let_go(self) -> None:
        ahead = 0 if self._ahead is None or self._client.arena is None else 1
        while len(self._steps) + ahead > self._max_steps:
            step, _ = self._steps.popitem(last=False)
            if self._client.arena is not None:
                self._link.tell(self._client, Release(lease=self._lease, step=step))
