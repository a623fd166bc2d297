"""How one edit reads its template: from the device where the step is there, else through a lease of the store."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType

from torch import Tensor

from instgenie.device_tier import DeviceReader
from instgenie.keyframes import Keyframes
from instgenie.lease_source import LeaseSource
from instgenie.orders import ServingTier
from instgenie.pipeline.cost import SegmentShape
from instgenie.pipeline.direct_load import DirectLoad
from instgenie.pipeline.loader import Loader, StepLoad
from instgenie.pipeline.planner import StepPlan
from instgenie.pipeline.step_planner import StepPlanner, StepSupply
from instgenie.pipeline.step_source import Loaded, StepLostError
from instgenie.records import ForeignRecordError, RecordForm, StepContext
from instgenie_cache import CacheError, TemplateLease, TierName

log = logging.getLogger(__name__)

# What a copy to the device costs besides bringing the step into memory, for weighing steps against each other only.
_COPIED_BYTES_PER_MS = 20_000_000
# Of a step, and at least: waiting for so much of it says that loads set the pace.
_STALLED_SHARE, _STALLED_MS = 0.05, 2.0


@dataclass(slots=True, eq=False)
class OpenStep:
    """A step that is about to be computed.

    Attributes:
        context: of the edit; None where all blocks are computed on all tokens.
        full_blocks: the full prefix.
        plan: None where steps are not planned.
        waited_ms: for records, until the computation could begin.
        stalls_ms: how long the computation then waited for the record of each block; known once it is finished.
    """

    row: int
    context: StepContext | None
    full_blocks: int
    plan: StepPlan | None
    load: StepLoad | DirectLoad | None  # None where nothing of it is loaded
    is_by_blocks: bool
    waited_ms: float
    stalls_ms: Mapping[int, float] = field(default_factory=dict)

    @property
    def stall_ms(self) -> float:
        """For how long the computation stood still."""
        return self.waited_ms + sum(self.stalls_ms.values())

    def computed(self, block: int) -> None:
        """The computation of a block was launched."""
        if self.load is not None:
            self.load.computed(block)


class TemplateReader(AbstractContextManager["TemplateReader"]):
    """Opens a template's steps one after the other; close it, or leave it as a context manager.

    Nothing that a store does wrong is raised, but by the context of an open step.

    Attributes:
        is_lost: the store did not have a step. It drops what is broken by itself; and where somebody else dropped the
            template, another of its name may be there by now, which is none of this reader's business.
        is_foreign: its records are in good order, and not the model's: the store cannot know.
        is_below: steps were read past the host tier, which therefore does not have them.
    """

    def __init__(
        self,
        form: RecordForm,
        lease: TemplateLease | None,
        device: DeviceReader,
        loader: Loader,
        planner: StepPlanner | None = None,
        keyframes: Keyframes | None = None,
    ) -> None:
        """Args:
        lease: the reader's from now on; None where the device has to do.
        planner: None takes every record, however long that takes.
        keyframes: of the template; None has records of every step.
        """
        self.is_lost = self.is_foreign = self.is_below = False
        self._form, self._lease, self._device = form, lease, device
        self._loader, self._planner, self._keyframes = loader, planner, keyframes
        self._all_there = StepSupply((None,) * form.blocks, form.record_bytes, 0, {}, 0)
        self._tiers: list[TierName] = []
        self._reads_blocks = False
        self._fetched_whole: set[int] = set()  # rows that the store was told to bring
        self._open: OpenStep | None = None
        self._ahead: tuple[int, StepLoad] | None = None  # of the step that comes next, by its row
        self._last_compute_ms = 0.0  # of the last step
        self._beside: Sequence[SegmentShape] = ()  # what is computed with the step that is opened

    def row_of(self, step: int) -> int:
        """The row of the template's records that serves a step."""
        return step if self._keyframes is None else self._keyframes.row_of(step)

    def kept_step(self, step: int) -> int:
        """The step whose records serve a step: under it they are on the device, whatever row the store gives them."""
        return step if self._keyframes is None else self._keyframes.kept[self.row_of(step)]

    def prefetch(self, steps: Sequence[int], shapes: Sequence[SegmentShape]) -> None:
        """Say which steps will be read, in this order.

        Where bringing whole steps into the host tier takes no longer than computing them, that is done ahead; else
        the blocks that a step needs are read, and no others.

        Args:
            shapes: the edit's segments.
        """
        missing = [step for step in steps if not self._device.holds(self.kept_step(step))]
        rows = list(dict.fromkeys(self.row_of(step) for step in missing))
        lease = self._lease
        if lease is None or not rows:
            return
        if self._planner is not None:
            self._ask_tiers(lease)
            self._choose_grain([self._tiers[row] for row in rows if row < len(self._tiers)], shapes)
        try:
            if not self._reads_blocks:
                self._fetched_whole.update(rows)
                lease.prefetch(rows)
        except CacheError as error:
            log.warning("template %s cannot be fetched ahead: %s", self._device.template, error)

    def tier(self) -> ServingTier | None:
        """The coldest tier that a step comes from, as the lease says; None where it cannot say."""
        try:
            return None if self._lease is None else self._lease.tier
        except CacheError:
            return None

    def open(
        self,
        step: int,
        positions: Tensor,
        shapes: Sequence[SegmentShape] = (),
        beside: Sequence[SegmentShape] = (),
        *,
        takes_all: bool = False,
    ) -> OpenStep | None:
        """Begin a step, None where it has to be computed densely. Then `finish` or `abandon` it.

        Args:
            positions: [U] the edit's context tokens, on the model's device.
            shapes: the edit's segments.
            beside: the other segments of the batch.
            takes_all: records of all blocks are needed, and nothing is planned.
        """
        assert self._open is None
        self._beside = beside
        started, row, kept_step = time.perf_counter(), self.row_of(step), self.kept_step(step)
        load: StepLoad | DirectLoad | None = self._take_ahead(row)
        payloads = self._device.use(kept_step)
        if load is None and payloads is None and self._lease is not None:
            if self._is_direct(row):
                load = self._loader.direct(self._source(row))
            else:
                load = self._load(step, range(0))  # which shares what other edits of the batch load already
        try:
            if payloads is not None:
                plan = None if takes_all else self._plan(shapes, self._all_there)
                context = StepContext(payloads, self._form, positions)
                self._open = self._opened(row, plan, context, None, started)
            elif load is not None:
                self._open = self._begin(step, load, positions, None if takes_all else shapes, started)
        except BaseException:
            if load is not None:
                load.release()
            raise
        if load is not None and (self._open is None or self._open.load is None):
            load.release()
        return self._open

    def _begin(
        self,
        step: int,
        load: StepLoad | DirectLoad,
        positions: Tensor,
        shapes: Sequence[SegmentShape] | None,
        started: float,
    ) -> OpenStep | None:
        """Shapes are None where nothing is planned."""
        row, kept_step, form = self.row_of(step), self.kept_step(step), self._form
        if isinstance(load, DirectLoad) or self._is_direct(row):  # whole steps are read, whatever is planned
            supply = self._all_there
        else:
            supply = self._supply(row, load)
        plan = None if shapes is None else self._plan(shapes, supply)
        # What is on the device costs nothing from then on: a step that there is room for is taken whole, once.
        is_kept = (plan is None or plan.full_prefix < form.blocks) and self._device.reserve(kept_step, form.step_bytes)
        if shapes is not None and plan is not None and plan.full_prefix and is_kept:
            plan = self._plan(shapes, supply, takes_all=True)
        blocks = range(0 if plan is None else plan.full_prefix, form.blocks)
        if not blocks:
            return self._opened(row, plan, None, None, started)
        load.begin(blocks)
        self.is_below |= self._is_by_blocks(row)
        if (error := load.error) is not None:  # at once, where nothing has to be waited for
            self._device.done()
            self._note(error, step)
            return None
        context = StepContext(load, form, positions, owns=not self._loader.copies.is_in_place)
        context.keep = is_kept
        return self._opened(row, plan, context, load, started)

    def load_ahead(self, step: int) -> None:
        """Begin to load the step that comes after the open one, as far as the loader's buffers go."""
        opened, row = self._open, self.row_of(step)
        if opened is None or self._lease is None or self._is_direct(row) or self._device.holds(self.kept_step(step)):
            return
        blocks = range(opened.full_blocks, self._form.blocks)
        if blocks:
            self._ahead = row, self._load(step, blocks, is_ahead=True)

    def finish(self) -> bool:
        """End the step that was opened: whether all that its context gave was the template's.

        False where a lease was lost meanwhile: the memory may have been used for something else.
        """
        opened = self._open
        assert opened is not None
        load, context = opened.load, opened.context
        try:
            if load is None:
                return True
            opened.stalls_ms = load.stalls_ms()  # what a device has yet to read may change, once the lease is lost
            if not load.is_valid:
                log.warning("the lease of template %s was lost during a step", self._device.template)
                return False
            if context is not None and context.keep and len(context.brought) == self._form.blocks:
                payloads = [context.brought[block] for block in range(self._form.blocks)]
                self._device.fill(payloads, load.read_ms + self._form.step_bytes / _COPIED_BYTES_PER_MS)
            return True
        finally:
            self.abandon()

    def abandon(self, error: CacheError | None = None) -> None:
        """End the step that was opened, if one is: it is not computed, or is already.

        Args:
            error: why it could not be computed to its end.
        """
        opened, self._open = self._open, None
        if opened is not None:
            if opened.load is not None:
                opened.load.release()
            if error is not None:
                self._note(error, opened.row)
        self._device.done()

    def close(self) -> None:
        """Give the lease back. A second time it does nothing."""
        try:
            self.abandon()
            if (load := self._take_ahead(None)) is not None:
                load.release()
        finally:
            self._device.close()
            self._release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Planning.

    def _choose_grain(self, tiers: Sequence[TierName], shapes: Sequence[SegmentShape]) -> None:
        """Whether to read whole steps, which the host tier then has for others, or blocks alone."""
        below = next((tier for tier in tiers if tier != "host"), None)
        if below is not None and self._planner is not None:
            self._reads_blocks = not self._planner.loads_hide(shapes, below, self._form.step_bytes)

    def _ask_tiers(self, lease: TemplateLease) -> None:
        try:
            self._tiers = list(lease.tiers())
        except CacheError as error:
            log.warning("where template %s is cannot be told: %s", self._device.template, error)

    def _plan(self, shapes: Sequence[SegmentShape], supply: StepSupply, *, takes_all: bool = False) -> StepPlan | None:
        try:
            return (
                None
                if self._planner is None
                else self._planner.plan(shapes, supply, takes_all=takes_all, beside=self._beside)
            )
        except Exception:  # an edit does not need a plan
            log.exception("a step cannot be planned")
            return None

    def _supply(self, row: int, load: StepLoad) -> StepSupply:
        form, tier = self._form, self._tier_of(row)
        tiers = [None if load.is_there(block) else tier for block in range(form.blocks)]
        queued = self._loader.queued_bytes(besides=load)
        room = self._loader.budget_bytes - self._loader.held_bytes + load.held_bytes
        return StepSupply(tiers, form.record_bytes, form.record_bytes, {tier: queued} if queued else {}, max(0, room))

    def learn(self, opened: OpenStep, shapes: Sequence[SegmentShape], compute_ms: float, step_ms: float) -> None:
        """Let the next steps be read in the way that suits what this one took.

        The store reads whole steps ahead, while others are computed: how long shows where it set the pace.

        Args:
            opened: that was finished.
            shapes: the edit's segments.
            compute_ms: of the batch's step, without waiting for records.
            step_ms: of all of it.
        """
        tier, lease, planner = self._tier_of(opened.row), self._lease, self._planner
        last_compute_ms, self._last_compute_ms = self._last_compute_ms, compute_ms
        if planner is None or lease is None or opened.load is None or opened.is_by_blocks:
            return
        if opened.stall_ms > max(_STALLED_MS, _STALLED_SHARE * step_ms):
            if tier == "host":  # it was there, and is no more: nor are others, maybe
                self._ask_tiers(lease)
                return
            planner.observe_load(Loaded(tier, self._form.step_bytes, opened.stall_ms + last_compute_ms))
            self._choose_grain([tier], shapes)
            if self._reads_blocks:
                lease.prefetch([])
        if opened.row < len(self._tiers):
            self._tiers[opened.row] = "host"

    # Loading.

    def _load(self, step: int, blocks: range, *, is_ahead: bool = False) -> StepLoad:
        row, record_bytes = self.row_of(step), self._form.record_bytes
        self.is_below |= self._is_by_blocks(row) and bool(blocks)
        return self._loader.load(
            (self._device.template, self.kept_step(step)),  # a row may be another step, once it was recorded anew
            self._source(row),
            blocks,
            record_bytes,
            record_bytes,
            is_ahead=is_ahead,
        )

    def _source(self, row: int) -> LeaseSource:
        assert self._lease is not None
        tier, by_blocks = self._tier_of(row), self._is_by_blocks(row)
        is_timed = tier == "host" or (by_blocks and row not in self._fetched_whole)
        return LeaseSource(self._lease, row, self._form, tier, by_blocks=by_blocks, is_timed=is_timed)

    def _take_ahead(self, row: int | None) -> StepLoad | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] == row:
            return None if ahead is None else ahead[1]
        ahead[1].release()
        return None

    def _tier_of(self, row: int) -> TierName:
        return self._tiers[row] if row < len(self._tiers) else "host"

    def _is_direct(self, row: int) -> bool:
        """Whether the step is computed with where the store has it, once that brought all of it into memory."""
        return self._loader.copies.is_in_place and not self._is_by_blocks(row)

    def _is_by_blocks(self, row: int) -> bool:
        """Whether the blocks that are needed are read past the host tier, instead of the whole step."""
        return self._reads_blocks and self._tier_of(row) != "host"

    def _opened(
        self,
        row: int,
        plan: StepPlan | None,
        context: StepContext | None,
        load: StepLoad | DirectLoad | None,
        started: float,
    ) -> OpenStep:
        full_blocks = 0 if plan is None else plan.full_prefix
        stall_ms = 1000 * (time.perf_counter() - started) if load is not None else 0.0
        return OpenStep(row, context, full_blocks, plan, load, self._is_by_blocks(row), stall_ms)

    def _note(self, error: CacheError, step: int) -> None:
        log.warning("step %d of template %s is computed densely: %s", step, self._device.template, error)
        if isinstance(error, StepLostError):
            self.is_lost = True
        self.is_foreign |= isinstance(error, ForeignRecordError) and self._is_leased()

    def _release(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            try:
                lease.release()
            except CacheError as error:
                log.warning("a lease of template %s cannot be released: %s", self._device.template, error)

    def _is_leased(self) -> bool:
        try:
            return self._lease is not None and self._lease.is_valid
        except CacheError:
            return False
