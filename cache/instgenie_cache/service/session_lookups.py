"""What one connection asks about templates, and which of them it pins."""

from __future__ import annotations

from collections.abc import Awaitable

from instgenie_cache.names import is_template_name, is_within
from instgenie_cache.service.served_store import ServedStore
from instgenie_cache.service.session_limits import SessionLimits
from instgenie_cache.service.shared_pins import SharedPins
from instgenie_cache.service.waiting_requests import WaitingRequests
from instgenie_cache.service.workers import WorkerShare
from instgenie_cache.wire.messages import List, ListReply, Message, Pin, PinReply, Stat, StatReply

MAX_NAMES = 400  # of templates in one reply, so that its header is not too long


class SessionLookups:
    """Answers at once where the store can, else by an awaitable."""

    def __init__(
        self,
        store: ServedStore,
        looks: WorkerShare,
        pins: SharedPins,
        limits: SessionLimits,
        namespace: str | None,
        waiting: WaitingRequests,
    ) -> None:
        self._store, self._looks, self._pins, self._limits = store, looks, pins, limits
        self._namespace, self._waiting = namespace, waiting

    def sees(self, template: str) -> bool:
        """Whether the client may know of such a template."""
        return is_template_name(template) and is_within(template, self._namespace)

    def pin(self, request: Pin) -> Message | Awaitable[Message]:
        """Pin a template, or end that.

        Raises:
            CacheError: too many are pinned, or too many requests wait. Then a pin is not made, but ended all the same.
        """
        template = request.template
        if not self.sees(template):
            return PinReply(held=False)
        if not request.pinned:
            self._pins.remove(self, template)
        blocks = self._store.lookup_blocks(template)
        if blocks:
            self._waiting.check_room()
        if request.pinned:
            self._pins.add(self, template, self._limits.pins)
            if blocks:
                return self._pin_later(template)
            return PinReply(held=self._pins.applied(self, template, self._pins.apply(template, look_up=False)))
        if blocks:
            return self._holds_later(template)
        return PinReply(held=self._store.num_bytes(template, look_up=False) is not None)

    def stat(self, request: Stat) -> Message | Awaitable[Message]:
        """Counts.

        Raises:
            CacheError: too many requests wait.
        """
        template = request.template
        if template is None:
            return self._stats(None, None)
        if not self.sees(template):
            return self._stats(template, None)
        if self._store.lookup_blocks(template):
            self._waiting.check_room()
            return self._stat_later(template)
        return self._stats(template, self._store.num_bytes(template, look_up=False))

    def list(self, request: List) -> Message:
        """Names."""
        limit = min(request.limit, MAX_NAMES)
        found = self._store.templates(self._namespace, request.after, limit + 1)
        names = [name for name, _ in found[:limit]]
        return ListReply(
            templates=names, num_bytes=[num_bytes for _, num_bytes in found[:limit]], more=len(found) > limit
        )

    def close(self) -> None:
        """End all pins."""
        self._pins.leave(self)

    async def _pin_later(self, template: str) -> Message:
        held = await self._looks.run(lambda: self._pins.apply(template))
        return PinReply(held=self._pins.applied(self, template, held))

    async def _holds_later(self, template: str) -> Message:
        num_bytes = await self._looks.run(lambda: self._store.num_bytes(template))
        return PinReply(held=num_bytes is not None)

    async def _stat_later(self, template: str) -> Message:
        num_bytes = await self._looks.run(lambda: self._store.num_bytes(template))
        return self._stats(template, num_bytes)

    def _stats(self, template: str | None, num_bytes: int | None) -> Message:
        stats = self._store.stats(self._namespace)
        of_all = template is None
        return StatReply(
            templates=stats.templates if of_all else int(num_bytes is not None),
            used_bytes=stats.used_bytes if of_all else num_bytes or 0,
            budget_bytes=stats.budget_bytes,
            hits=stats.hits,
            misses=stats.misses,
            evicted_templates=stats.evicted_templates,
        )
