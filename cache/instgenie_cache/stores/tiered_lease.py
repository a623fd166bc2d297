"""Reading a template of a tiered store."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from instgenie_cache.errors import CacheError, RecordFormatError
from instgenie_cache.records.record import Record, RecordKey, decode_record
from instgenie_cache.records.slab import Slab
from instgenie_cache.records.template_size import TemplateSize
from instgenie_cache.stores.step_loader import StepLoader, StepView
from instgenie_cache.stores.store_state import StoreState
from instgenie_cache.stores.template_entry import TemplateEntry
from instgenie_cache.tiers.tier import TierName

_SHARE = 4  # a lease keeps steps of up to a quarter of the arena, so that it does not stand in its own way
_KEPT = 2  # steps at least


class TieredLease(AbstractContextManager["TieredLease"]):
    """A `TemplateLease` of a `TieredStore`.

    `step` keeps as many steps as the share of the arena allows. `resident` and `load` are for the service, which
    drops steps as its client says.
    """

    def __init__(self, state: StoreState, loader: StepLoader, entry: TemplateEntry, tier: TierName) -> None:
        """The lease is counted already."""
        self._state, self._loader, self._entry, self._tier = state, loader, entry, tier
        self._views: OrderedDict[int, StepView] = OrderedDict()
        self._wanted: deque[int] = deque()  # steps that were asked for ahead and are not loading yet
        self._is_open = True

    @property
    def size(self) -> TemplateSize:
        """Of the template."""
        return self._entry.size

    @property
    def tier(self) -> TierName:
        """See `TemplateLease`."""
        return self._tier

    @property
    def note(self) -> bytes:
        """See `TemplateLease`."""
        return self._entry.note

    @property
    def is_valid(self) -> bool:
        """See `TemplateLease`."""
        return self._is_open

    def prefetch(self, steps: Iterable[int]) -> None:
        """See `TemplateLease`. As many at a time as the share of the arena allows, others as steps are read."""
        with self._state.changed:
            if self._is_open:
                self._wanted = deque(steps)
                self._read_ahead(self._kept_steps)

    def step(self, step: int) -> Sequence[Record] | None:
        """See `TemplateLease`. The one after it, or what `prefetch` was told of, is loaded meanwhile."""
        self._make_room_for(step)
        view = self.load(step)
        if view is None:
            return None
        with self._state.changed:
            self._pass(step)
            if not self._wanted:
                self._wanted.append(step + 1)
            self._read_ahead(1)
        return self._records(view.slab, step, range(self.size.blocks))

    def blocks(self, step: int, first: int, stop: int) -> Sequence[Record] | None:
        """See `TemplateLease`. Where the step is in memory, what `prefetch` was told of is loaded meanwhile."""
        size, blocks = self.size, range(first, stop)
        with self._state.changed:
            self._check_open()
            if not size.has_blocks(step, first, stop):
                return None
            if step not in self._views and self._entry.step_key(step) in self._state.host:
                self._make_room_for(step)
                self._pass(step)
                self._read_ahead(1)
            view = self.resident(step)
        if view is not None:
            part = Slab(view.slab.views(size.offset(first), size.offset(len(blocks))))
            return self._records(part, step, blocks)
        if not blocks:
            return []
        slab = self.load_blocks(step, blocks)
        return None if slab is None else self._records(slab, step, blocks)

    def tiers(self) -> list[TierName]:
        """See `TemplateLease`."""
        with self._state.changed:
            self._check_open()
            steps = range(self.size.steps)
            return ["host" if step in self._views else self._loader.tier(self._entry, step) for step in steps]

    def resident(self, step: int) -> StepView | None:
        """The step if it is in memory; it stays there until `drop` or `release`. Does not wait.

        Raises:
            CacheError: the lease was released.
        """
        with self._state.changed:
            self._check_open()
            view = self._views.get(step)
            if view is None:
                pin = self._state.resident(self._entry, step)
                if pin is None:
                    return None
                view = self._views[step] = StepView(pin.slab, pin)
            self._views.move_to_end(step)
            return view

    def load(self, step: int) -> StepView | None:
        """As `resident`, but brought into memory if need be; None where it is lost.

        Raises:
            CacheError: a tier cannot be read, or the lease was released.
        """
        view = self.resident(step)
        if view is not None:
            return view
        loaded = self._loader.load(self._entry, step)
        if loaded is None:
            return None
        with self._state.changed:
            if self._is_open and step not in self._views:
                self._views[step] = loaded
                return loaded
        self._loader.close_view(loaded)
        return self.resident(step)

    def load_blocks(self, step: int, blocks: range) -> Slab | None:
        """Records of some blocks of a step that is not in memory, in memory of their own, a stride apart; None where
        one of them is lost.

        Raises:
            CacheError: a tier cannot be read, or the lease was released.
        """
        with self._state.changed:
            self._check_open()
        return self._loader.load_blocks(self._entry, step, blocks)

    def drop(self, step: int) -> None:
        """Let a step go; one that is not kept is no error."""
        with self._state.changed:
            view = self._views.pop(step, None)
            if view is not None:
                self._loader.close_view(view)

    def release(self) -> None:
        """See `TemplateLease`."""
        with self._state.changed:
            if self._is_open:
                self._is_open = False
                for view in self._views.values():
                    self._loader.close_view(view)
                self._views.clear()
                self._state.release(self._entry)

    @property
    def _kept_steps(self) -> int:
        """How many steps the lease keeps, those that are being read ahead not counted."""
        share = self._state.host.total_bytes // _SHARE
        return max(_KEPT, share // self._state.host.pages_bytes(self.size.step_bytes))

    def _pass(self, step: int) -> None:
        """What was to be read before a step is not needed: whoever reads may have had it from elsewhere."""
        if step in self._wanted:
            while self._wanted.popleft() != step:
                pass

    def _read_ahead(self, steps: int) -> None:
        for _ in range(min(steps, len(self._wanted))):
            self._loader.prefetch(self._entry, [self._wanted.popleft()])

    def _records(self, slab: Slab, step: int, blocks: range) -> list[Record]:
        """Of some blocks, which lie in the slab from its beginning on. They were verified when they came there."""
        size, template = self.size, self._entry.template
        try:
            return [
                decode_record(
                    slab.read(size.offset(place), size.stored_record_bytes),
                    RecordKey(template, step, block),
                    verify=False,
                )
                for place, block in enumerate(blocks)
            ]
        except RecordFormatError:
            self._check_open()  # else the memory may be another step's by now
            raise

    def _make_room_for(self, step: int) -> None:
        with self._state.changed:
            while step not in self._views and len(self._views) >= self._kept_steps:
                self._loader.close_view(self._views.popitem(last=False)[1])

    def _check_open(self) -> None:
        if not self._is_open:
            raise CacheError("the lease was released before")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
