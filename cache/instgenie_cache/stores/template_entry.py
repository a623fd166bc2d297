"""A template that a store knows: what is where."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from dataclasses import dataclass, field

from instgenie_cache.errors import CacheError
from instgenie_cache.records.manifest import Manifest
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.tiers.host_tier import Pin, StepKey
from instgenie_cache.tiers.tier import ColdTier, TierName

_numbers = itertools.count()


@dataclass(slots=True, eq=False)
class TemplateEntry:
    """One writing of a template. Guarded by the store's lock.

    Attributes:
        size: what was announced; once it is committed, what it has.
        host_name: what its steps are called in the host tier: a template that is deleted and written anew does not meet
            the steps of before, which somebody may still read.
        tiers: below the host that hold all of it, nearest first.
        not_copied_until: a copy to a shared tier failed, or another writing is there; on the monotonic clock.
        losses: how often each tier's copy, or what was written of one, was found broken or given up. Whoever reads
            remembers it: what is found out about an earlier copy says nothing of the one that is there now.
        reserved: steps that have memory and that readers cannot find yet: incomplete ones, and, where there is no tier
            below, those of a template that is not committed.
        written: steps that are in the first tier below the host.
        unwritten: complete steps that wait to be written there, and must stay in memory until then.
        guards: keep its steps in memory while it is in use and in no tier below.
        is_committed: readers find it.
        is_gone: deleted, evicted, aborted or broken: nobody finds it any more, those who have it may read on.
        was_written: something of it is, or was, on its way to the first tier below the host.
        is_being_copied: between tiers, or waiting for it.
        is_volatile: it is in no tier below the host, nor on its way to the nearest.
        error: why the nearest tier does not take it.
    """

    template: str
    size: TemplateSize
    cost_ms: float = 0.0
    created: float = field(default_factory=time.time)
    note: bytes = b""
    tiers: list[ColdTier] = field(default_factory=list)
    not_copied_until: float = -math.inf
    losses: Counter[TierName] = field(default_factory=Counter)
    written: set[int] = field(default_factory=set)
    reserved: dict[int, Slab] = field(default_factory=dict)
    unwritten: dict[int, Pin] = field(default_factory=dict)
    guards: list[Pin] = field(default_factory=list)
    leases: int = 0
    is_pinned: bool = False
    is_committed: bool = False
    is_gone: bool = False
    was_written: bool = False
    is_being_copied: bool = False
    is_volatile: bool = False
    error: CacheError | None = None
    number: int = field(default_factory=lambda: next(_numbers))

    @property
    def host_name(self) -> str:
        """See above; names of templates have no #."""
        return f"{self.template}#{self.number}"

    @property
    def is_held(self) -> bool:
        """Whether it must not be evicted."""
        return self.is_pinned or self.leases > 0

    @property
    def manifest(self) -> Manifest:
        """What the tiers below keep of it."""
        return Manifest(self.template, self.size, self.cost_ms, self.created, self.note)

    def step_key(self, step: int) -> StepKey:
        """What the host tier files a step under."""
        return StepKey(self.host_name, step)
