"""Reading a template from a cache service."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import cast, get_args

import numpy as np

from instgenie_cache.client.cache_client import Answer, CacheClient
from instgenie_cache.client.service_link import Call, ServiceLink
from instgenie_cache.errors import CacheError, ProtocolError, ServiceError
from instgenie_cache.records.record import Record, RecordKey, decode_record
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.pages import Extent
from instgenie_cache.tiers.tier import TierName
from instgenie_cache.wire.frames import MAX_ITEMS
from instgenie_cache.wire.messages import Fetch, FetchReply, Prefetch, Release, Tiers, TiersReply

_STREAMED_STEPS = 2  # in this process's own memory
_MIN_MAPPED_STEPS = 3  # the one in use, the one before and the one that is read ahead
_ARENA_SHARE = 4


class ServiceLease(AbstractContextManager["ServiceLease"]):
    """A `TemplateLease` of a `ServiceStore`. One thread reads at a time, others wait for it.

    While the caller uses a step, the next one is asked for: that after it in what was last given to `prefetch`, else
    the one that follows. Payloads are valid until the release, with exceptions: of a template that would fill more
    than a quarter of the service's memory, and where the bytes are sent instead of being mapped, the step that was not
    used for longest is let go when another one comes; the one in use and the one before stay.
    """

    def __init__(
        self,
        link: ServiceLink,
        client: CacheClient,
        lease: int,
        template: str,
        size: TemplateSize,
        tier: TierName,
        note: bytes,
    ) -> None:
        self._link, self._client, self._lease = link, client, lease
        self._template, self._size, self._tier, self._note = template, size, tier, note
        self._reading = threading.Lock()  # held while the service is waited for
        self._lock = threading.Lock()  # for what follows
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
    def note(self) -> bytes:
        """See `TemplateLease`."""
        return self._note

    @property
    def is_valid(self) -> bool:
        """See `TemplateLease`."""
        return self._is_open and not self._client.is_closed

    def prefetch(self, steps: Iterable[int]) -> None:
        """See `TemplateLease`."""
        wanted = [step for step in steps if 0 <= step < self._size.steps]
        self._next = dict(pairwise(wanted))
        if self.is_valid and wanted:
            self._link.tell(self._client, Prefetch(template=self._template, steps=wanted[:MAX_ITEMS]))

    def step(self, step: int) -> Sequence[Record] | None:
        """See `TemplateLease`."""
        with self._reading:
            self._check()
            if not 0 <= step < self._size.steps:
                return None
            records = self._read(step)
            if records is not None:
                self._read_ahead(self._next.get(step, step + 1))
                self._let_go()
                self._check()  # else the memory may be another step's by now
            return records

    def blocks(self, step: int, first: int, stop: int) -> Sequence[Record] | None:
        """See `TemplateLease`. Nothing is asked for ahead."""
        with self._reading:
            self._check()
            if not self._size.has_blocks(step, first, stop):
                return None
            if first == stop:
                return []
            records = self._read(step, range(first, stop))
            self._let_go()
            self._check()  # as above
            return records

    def tiers(self) -> Sequence[TierName]:
        """See `TemplateLease`."""
        self._check()
        reply: TiersReply = self._link.ask(self._client, Tiers(lease=self._lease)).message
        if len(reply.tiers) != self._size.steps or not set(reply.tiers) <= set(get_args(TierName)):
            raise ProtocolError(f"{repr(reply.tiers)[:80]} are not the tiers of {self._size.steps} steps")
        return cast("list[TierName]", reply.tiers)

    def release(self) -> None:
        """See `TemplateLease`. Does not wait for who reads."""
        with self._lock:
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
            with self._lock:
                self._steps.clear()  # so that the memory is let go where nobody uses it
                self._ahead = None
            raise ServiceError("the lease was lost with the connection to the cache service")

    def _read(self, step: int, blocks: range | None = None) -> list[Record] | None:
        """Records of a step, of some blocks of it alone if need be. A whole step that comes is kept."""
        with self._lock:
            records = self._steps.get(step)
            if records is not None:
                self._steps.move_to_end(step)
            call = None if records is not None else self._take_ahead(step)
        if records is None:
            asked = blocks if call is None else None
            answer = (call or self._fetch(step, asked)).result(self._link.settings.step_seconds)
            reply: FetchReply = answer.message
            if reply.lost:
                return None
            if reply.pieces is None and asked is not None:
                return self._records(_sent(answer), step, asked, verify=True)
            try:
                slab = _sent(answer) if reply.pieces is None else self._mapped(reply.pieces)
                records = self._records(slab, step, range(self._size.blocks), verify=reply.pieces is None)
            except CacheError:
                self._check()  # else the memory may be another step's by now, or be gone
                raise
            with self._lock:
                if self._is_open:
                    self._steps[step] = records
        return records if blocks is None else records[blocks.start : blocks.stop]

    def _records(self, slab: Slab, step: int, blocks: range, *, verify: bool) -> list[Record]:
        """Of some blocks, which lie in the slab from its beginning on.

        Args:
            verify: they were not verified since they came into that memory.
        """
        size = self._size
        if slab.num_bytes < size.offset(len(blocks)):
            raise ProtocolError(f"{slab.num_bytes} bytes for {len(blocks)} blocks of {size.stride_bytes}")
        return [
            decode_record(
                slab.read(size.offset(place), size.stored_record_bytes),
                RecordKey(self._template, step, block),
                verify=verify,
            )
            for place, block in enumerate(blocks)
        ]

    def _mapped(self, pieces: Sequence[Sequence[int]]) -> Slab:
        arena = self._client.arena
        if arena is None or not all(len(piece) == 2 for piece in pieces):
            raise ProtocolError("a step is said to be in memory that is not shared")
        return arena.slab(Extent(offset, length) for offset, length in pieces)

    def _fetch(self, step: int, blocks: range | None = None) -> Call:
        wanted = range(self._size.blocks) if blocks is None else blocks
        request = Fetch(lease=self._lease, step=step, blocks=None if blocks is None else [blocks.start, blocks.stop])
        return self._link.start(self._client, request, partial(_memory, self._size.offset(len(wanted))))

    # Under the lock.

    def _take_ahead(self, step: int) -> Call | None:
        """What was asked for ahead, if it is that step."""
        if self._ahead is None or self._ahead[0] != step:
            return None
        call, self._ahead = self._ahead[1], None
        return call

    def _forget_ahead(self) -> None:
        if self._ahead is not None:
            _, call = self._ahead
            self._ahead = None
            call.forget()

    # Taking the lock.

    def _read_ahead(self, step: int) -> None:
        with self._lock:
            if self._ahead is not None and self._ahead[0] == step:
                return
            self._forget_ahead()
            if self._is_open and step < self._size.steps and step not in self._steps and not self._client.is_silent:
                self._ahead = (step, self._fetch(step))

    def _let_go(self) -> None:
        with self._lock:
            ahead = 0 if self._ahead is None or self._client.arena is None else 1
            while len(self._steps) + ahead > self._max_steps:
                step, _ = self._steps.popitem(last=False)
                if self._client.arena is not None:
                    self._link.tell(self._client, Release(lease=self._lease, step=step))


def _sent(answer: Answer) -> Slab:
    """The memory that a payload came into."""
    return Slab([np.frombuffer(view, np.uint8) for view in answer.payload])


def _memory(expected_bytes: int, num_bytes: int) -> list[memoryview]:
    if num_bytes != expected_bytes:
        raise ProtocolError(f"{num_bytes} bytes of a step, {expected_bytes} were expected")
    return [np.empty(num_bytes, np.uint8).data]
