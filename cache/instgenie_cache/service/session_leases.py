"""The templates that one connection reads, and the steps of them that it uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from instgenie_cache.errors import CacheError
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.service.private_memory import PrivateMemory
from instgenie_cache.service.served_store import ServedLease, ServedStep
from instgenie_cache.service.session_limits import SessionLimits
from instgenie_cache.service.workers import WorkerShare
from instgenie_cache.wire.frames import MAX_ITEMS
from instgenie_cache.wire.messages import FetchReply, LeaseReply, TiersReply

# In one reply, so that its header is not too long.
MAX_PIECES = 3000  # of the arena
MAX_TIERS = MAX_ITEMS  # one for each step


@dataclass(slots=True, eq=False)
class StepUse:
    """A request in progress that uses a step.

    Attributes:
        blocks: which of the step's are wanted, None where all of it is.
        private_bytes: of those blocks, where the step is not in memory.
        is_released: the client has given the step back meanwhile.
    """

    step: int
    blocks: range | None = None
    private_bytes: int = 0
    is_released: bool = False


@dataclass(slots=True, eq=False)
class HeldLease:
    """A lease and what its client has of it.

    Attributes:
        uses: requests in progress.
        mapped: steps that the client reads where they are, until it releases them.
        private: sizes of steps that are not in the arena.
        is_ended: released, in effect once no request uses it.
    """

    lease: ServedLease
    uses: set[StepUse] = field(default_factory=set)
    mapped: set[int] = field(default_factory=set)
    private: dict[int, int] = field(default_factory=dict)
    is_ended: bool = False


class SessionLeases:
    """Leases of one connection. A step stays where it is while it is being sent, whatever the client releases."""

    def __init__(self, loads: WorkerShare, private: PrivateMemory, limits: SessionLimits, *, maps_arena: bool) -> None:
        self._loads, self._private, self._limits, self._maps_arena = loads, private, limits, maps_arena
        self._held: dict[int, HeldLease] = {}
        self._last_number = 0
        self._is_closed = False

    def check_room(self) -> None:
        """Before a lease is taken.

        Raises:
            CacheError: there are too many.
        """
        if len(self._held) >= self._limits.leases:
            raise CacheError(f"{self._limits.leases} leases are open on this connection, more are not allowed")

    def add(self, lease: ServedLease | None) -> LeaseReply:
        """Keep a lease that was taken, or say that there is none."""
        if lease is not None and self._is_closed:  # it came when the client had gone
            lease.release()
            lease = None
        if lease is None:
            return LeaseReply(lease=None)
        self._last_number += 1
        self._held[self._last_number] = HeldLease(lease)
        size = lease.size
        return LeaseReply(
            lease=self._last_number,
            tier=lease.tier,
            steps=size.steps,
            blocks=size.blocks,
            record_bytes=size.record_bytes,
            note=lease.note,
        )

    def held(self, number: int) -> HeldLease:
        """A lease by its number.

        Raises:
            CacheError: there is no such lease.
        """
        held = self._held.get(number)
        if held is None:
            raise CacheError(f"there is no lease {number}")
        return held

    def tiers(self, number: int) -> TiersReply:
        """Where the steps of a lease's template are.

        Raises:
            CacheError: there is no such lease, or the reply would be too long.
        """
        lease = self.held(number).lease
        if lease.size.steps > MAX_TIERS:
            raise CacheError(f"a template of {lease.size.steps} steps; the tiers of {MAX_TIERS} fit into a reply")
        return TiersReply(tiers=list[str](lease.tiers()))

    def fetch_now(self, held: HeldLease, step: int, blocks: range | None = None) -> FetchReply | None:
        """The reply where it can be had without waiting and sending: a step that is in memory and mapped, or none."""
        size = held.lease.size
        wanted = range(size.blocks) if blocks is None else blocks
        if not size.has_blocks(step, wanted.start, wanted.stop):
            return FetchReply(lost=True)
        if not wanted:
            return FetchReply(lost=False)
        if not self._maps_arena:
            return None
        found = held.lease.resident(step)
        return None if found is None else self._pieces(held, step, found)

    def use(self, held: HeldLease, step: int, blocks: range | None = None) -> StepUse:
        """Keep a step from now on, or once it is loaded, until `done`."""
        use = StepUse(step, blocks)
        held.uses.add(use)
        return use

    async def fetch(self, held: HeldLease, use: StepUse) -> tuple[FetchReply, Sequence[memoryview]]:
        """A step that is used, or where it is: with bytes to send, the use is to last until they are sent.

        Raises:
            CacheError: it cannot be had.
        """
        step, size = use.step, held.lease.size
        found = held.lease.resident(step)
        if found is None and use.blocks is not None:
            return await self._fetch_blocks(held, use, use.blocks)
        if found is None:
            found = await self._loads.run(lambda: held.lease.load(step), self._private.loading(size.step_bytes))
            self._count_private(held, step, found)
        if held.is_ended:
            raise CacheError("the lease was released")
        if found is None:
            return FetchReply(lost=True), ()
        if use.is_released and self._maps_arena:
            raise CacheError(f"step {step} was released while it was fetched")
        reply = self._pieces(held, step, found)
        if reply is not None:
            return reply, ()
        return FetchReply(lost=False), _payload(size, found.slab, use.blocks or range(size.blocks))

    def done(self, held: HeldLease, use: StepUse) -> None:
        """A request does not use the step any more."""
        held.uses.discard(use)
        self._private.give(use.private_bytes)
        self._drop_if_unused(held, use.step)
        if held.is_ended and not held.uses:
            held.lease.release()

    def release(self, number: int, step: int | None) -> None:
        """Give back a lease, or one step of it. An unknown lease is no error."""
        held = self._held.get(number)
        if held is None:
            return
        if step is not None:
            held.mapped.discard(step)
            for use in held.uses:
                use.is_released |= use.step == step
            self._drop_if_unused(held, step)
            return
        del self._held[number]
        held.is_ended = True
        if not held.uses:
            held.lease.release()

    def close(self) -> None:
        """The connection has ended, nothing is sent any more: give everything back."""
        self._is_closed = True
        for held in self._held.values():
            held.is_ended = True
            held.lease.release()
        self._held.clear()

    async def _fetch_blocks(
        self, held: HeldLease, use: StepUse, blocks: range
    ) -> tuple[FetchReply, Sequence[memoryview]]:
        size = held.lease.size
        slab = await self._loads.run(
            lambda: held.lease.load_blocks(use.step, blocks), self._private.loading(size.offset(len(blocks)))
        )
        if held.is_ended:
            raise CacheError("the lease was released")
        if slab is None:
            return FetchReply(lost=True), ()
        self._private.take(slab.num_bytes)
        use.private_bytes = slab.num_bytes
        return FetchReply(lost=False), _payload(size, slab, range(len(blocks)))

    def _count_private(self, held: HeldLease, step: int, found: ServedStep | None) -> None:
        if found is not None and found.extents is None and step not in held.private:
            self._private.take(found.slab.num_bytes)
            held.private[step] = found.slab.num_bytes

    def _pieces(self, held: HeldLease, step: int, found: ServedStep) -> FetchReply | None:
        """Where the step is, for a client that can read it there."""
        extents = found.extents
        if not self._maps_arena or extents is None or len(extents) > MAX_PIECES:
            return None
        held.mapped.add(step)
        return FetchReply(lost=False, pieces=[[extent.offset, extent.length] for extent in extents])

    def _drop_if_unused(self, held: HeldLease, step: int) -> None:
        if step in held.mapped or any(use.step == step for use in held.uses):
            return
        held.lease.drop(step)
        if step in held.private:
            self._private.give(held.private.pop(step))


def _payload(size: TemplateSize, slab: Slab, blocks: range) -> list[memoryview]:
    """Adjacent records of a slab, with zeros between them: what is there in memory may be another tenant's."""
    record_bytes = size.stored_record_bytes
    gap_bytes = size.stride_bytes - record_bytes
    if not gap_bytes:
        return [view.data for view in slab.views(size.offset(blocks.start), size.offset(len(blocks)))]
    gap = memoryview(bytes(gap_bytes))
    views: list[memoryview] = []
    for block in blocks:
        views += [view.data for view in slab.views(size.offset(block), record_bytes)]
        views.append(gap)
    return views
