"""Tenants share evenly: who goes next of all that wait. No I/O, no clock."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import NamedTuple


class Turn(NamedTuple):
    """What was taken from a queue.

    Attributes:
        at: its tenant's virtual time before it was charged: of several that were taken the smallest goes first.
    """

    id: str
    at: float


class _Entry(NamedTuple):
    order: float
    number: int
    id: str


@dataclass(slots=True)
class _Item:
    number: int
    tenant: str
    cost: float


@dataclass(slots=True)
class _Tenant:
    """Attributes:
    number: of its coming, or of when it was last given something back: of tenants that are even the first goes first.
    served: its virtual time: the cost of what was taken.
    heap: what waits, with entries of what was removed.
    waiting: how much waits.
    """

    number: int
    served: float
    heap: list[_Entry] = field(default_factory=list)
    waiting: int = 0


class FairQueue:
    """What waits, by tenants' virtual times; of a tenant's by order.

    A tenant's virtual time is the cost of what it was served. Next is the tenant with the smallest; it is charged the
    whole cost of what is taken at once, so that tenants alternate from the first on, and what was not used is given
    back later. The clock is the smallest virtual time of those that wait. It never goes back, and a tenant that comes
    is set forward to it: it has no credit for the time in which it wanted nothing. It keeps a debt, since coming and
    going would be free else; but as it was served when it had the smallest time, it owes the cost of its last items at
    most. When nothing waits any more all are even, for all had what they wanted.

    So an item that is the first of its tenant is overtaken, by each other tenant, by 1 + D / c items at most: D is what
    its tenant is ahead of the clock, 0 if nothing of the tenant was taken of late, and c the least that an item of the
    other tenant costs after what was given back. It does not depend on how much the others put in.

    All takes O(log n), amortised.
    """

    def __init__(self) -> None:
        self._items: dict[str, _Item] = {}
        self._tenants: dict[str, _Tenant] = {}
        self._line: list[
            tuple[float, int, str]
        ] = []  # heap of tenants; an entry is outdated once its tenant was charged
        self._clock = 0.0
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """How much waits."""
        return len(self._items)

    def __contains__(self, item_id: str) -> bool:
        """Whether it waits."""
        return item_id in self._items

    def put(self, item_id: str, tenant_name: str, order: float, cost: float) -> None:
        """Let it wait.

        Args:
            order: of a tenant's, the smallest goes first; of equal ones the first that came.
            cost: above 0.
        """
        assert item_id not in self._items
        assert cost > 0
        tenant = self._tenant(tenant_name)
        if not tenant.waiting:
            self._set_served(tenant_name, max(tenant.served, self._clock))
        item = _Item(next(self._numbers), tenant_name, cost)
        self._items[item_id] = item
        tenant.waiting += 1
        heapq.heappush(tenant.heap, _Entry(order, item.number, item_id))

    def first(self) -> str | None:
        """What is next; None where nothing waits."""
        while self._items:
            served, number, name = self._line[0]
            tenant = self._tenants.get(name)
            if tenant is None or (tenant.served, tenant.number) != (served, number):
                heapq.heappop(self._line)
            elif not tenant.waiting:  # its debt is paid: it would be set forward to the clock when it comes back
                heapq.heappop(self._line)
                del self._tenants[name]
            else:
                self._clock = served
                return self._first_of(tenant)
        return None

    def take(self) -> Turn:
        """Take what is next, and charge its tenant. There has to be something."""
        item_id = self.first()
        assert item_id is not None
        item, at = self._items[item_id], self._clock
        self._set_served(item.tenant, at + item.cost)
        self.remove(item_id)
        return Turn(item_id, at)

    def remove(self, item_id: str) -> None:
        """It waits no more; nothing is charged. Nothing happens where it does not wait."""
        item = self._items.pop(item_id, None)
        if item is not None:
            self._tenants[item.tenant].waiting -= 1
            if not self._items:
                self._clock = max(tenant.served for tenant in self._tenants.values())
                self._tenants.clear()
                self._line.clear()

    def charge(self, tenant_name: str, cost: float) -> None:
        """What was served of a tenant cost more than was known; less, if below 0. No matter when nothing waits.

        A tenant that is given something back goes behind those that it is even with then: else it would overtake them
        once more with what it was served before they came.
        """
        if cost and self._items:
            tenant = self._tenant(tenant_name)
            if cost < 0:
                tenant.number = next(self._numbers)
                heapq.heappush(self._line, (tenant.served, tenant.number, tenant_name))
            self._set_served(tenant_name, max(max(tenant.served, self._clock) + cost, self._clock))

    def _tenant(self, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(next(self._numbers), self._clock)
            heapq.heappush(self._line, (tenant.served, tenant.number, name))
        return tenant

    def _set_served(self, name: str, served: float) -> None:
        tenant = self._tenants[name]
        if served != tenant.served:
            tenant.served = served
            heapq.heappush(self._line, (served, tenant.number, name))

    def _first_of(self, tenant: _Tenant) -> str:
        while True:
            entry = tenant.heap[0]
            item = self._items.get(entry.id)
            if item is not None and item.number == entry.number:
                return entry.id
            heapq.heappop(tenant.heap)
