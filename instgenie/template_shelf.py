"""Templates' records: which there are, how an edit reads them, how they are recorded, wherever they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from instgenie.device_tier import DeviceTier, StepKey, default_buffer_bytes, default_device_cache_bytes
from instgenie.edit_state import segment_shapes
from instgenie.keyframes import Keyframes
from instgenie.lane import record_template
from instgenie.models.flux import FluxForward
from instgenie.page_lock import PageLock
from instgenie.pipeline.copies import Copies
from instgenie.pipeline.loader import Loader
from instgenie.pipeline.step_planner import StepPlanner
from instgenie.pipeline.step_source import Loaded
from instgenie.running_edit import RunningEdit
from instgenie.template import Template
from instgenie.template_reader import TemplateReader
from instgenie.warm_request import WarmOutcome
from instgenie_cache import BeingWrittenError, CacheError, RecordStore, ServiceError, TemplateWriter
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.eviction import EvictionPolicy, PolicyName
from instgenie_cache.policies import make_policy

log = logging.getLogger(__name__)


class TemplateShelf:
    """The records of one model's templates. What a store does wrong costs records, and is logged.

    `read` and what it gives belong to one edit, whose steps are taken by the thread that computes. Any thread may call
    anything.

    Attributes:
        store: the shelf's from now on: `close` closes it.
        device_tier: records that are on the model's device.
        loader: brings them there.
        planner: plans the steps of edits; None takes every record, however long that takes.
    """

    def __init__(
        self, model: FluxForward, store: RecordStore, device_cache_bytes: int | None, eviction: PolicyName
    ) -> None:
        """Args:
        device_cache_bytes, eviction: as of `Editor`.
        """
        device = model.device
        self.store = store
        budget_bytes = default_device_cache_bytes(device) if device_cache_bytes is None else device_cache_bytes
        policy: EvictionPolicy[StepKey] = make_policy(eviction)
        self.device_tier = DeviceTier(budget_bytes, policy)
        self.loader = Loader(Copies(device), default_buffer_bytes(device), self._learn)
        self.planner: StepPlanner | None = None
        self._model = model
        self._page_lock = PageLock.on(device)

    def read(self, edit: RunningEdit) -> TemplateReader | None:
        """Begin to read an edit's template; None where it is not there.

        A lease is taken even where every step is on the device: it tells the store that the template is in use, so that
        popular ones are not evicted from below, and notices that a template was deleted by somebody else. Where the
        store fails, the device alone will do.
        """
        self._page_lock.follow(self.store)
        template, steps = edit.template, edit.record_steps
        reader = self._reader(template, steps)
        if reader is not None:
            kept = [reader.kept_step(step) for step in steps]
            if kept:
                edit.timings.tier = "device" if self.device_tier.holds(template.key, kept) else reader.tier()
            reader.prefetch(steps, segment_shapes(edit.state))
        return reader

    @property
    def page_locked_bytes(self) -> int:
        """Of the store's memory, what a CUDA device copies from directly."""
        return self._page_lock.num_bytes

    def holds(self, key: str) -> bool:
        """Whether a template's records are there. Asking is no use of them."""
        try:
            return self.store.holds(key)
        except CacheError as error:
            log.warning("template %s cannot be looked up: %s", key, error)
            return False

    def record(self, template: Template, check: Callable[[], None] = lambda: None) -> WarmOutcome:
        """Record a template. A hit, where the store refused because somebody else wrote it, who is done by now.

        Args:
            check: called before each step; what it raises ends the recording.
        """
        try:
            record_template(self._model, template, self.store, check)
        except CacheError as error:
            return self._refused(template.key, error)
        return "cold"

    def begin_record(self, template: Template) -> TemplateWriter | WarmOutcome:
        """What a lane writes a template with; refused, or a hit as of `record`, where there is nothing to write.

        It may wait some seconds for memory that is being freed.
        """
        try:
            return self.store.create(template.key, template.form(self._model).size(template.steps))
        except CacheError as error:
            return self._refused(template.key, error)

    def num_bytes(self, key: str) -> int | None:
        """Bytes of a template's records, None where they are not there."""
        try:
            return self.store.num_bytes(key)
        except CacheError as error:
            log.warning("template %s cannot be looked up: %s", key, error)
            return None

    def pin(self, key: str) -> bool:
        """Keep a template's records from being evicted; False where they are not there."""
        try:
            return self.store.pin(key)
        except CacheError as error:
            log.warning("template %s cannot be pinned: %s", key, error)
            return False

    def unpin(self, key: str) -> None:
        """Let a template's records be evicted again."""
        try:
            self.store.unpin(key)
        except CacheError as error:
            log.warning("template %s cannot be unpinned: %s", key, error)

    def prefetch(self, key: str) -> None:
        """Have a template's records brought into memory; where there are none, nothing."""
        try:
            self.store.prefetch(key)
        except CacheError as error:
            log.warning("template %s cannot be brought into memory: %s", key, error)

    def forget(self, key: str) -> None:
        """Drop a template's records, from the device too; edits that use them go on.

        Raises:
            CacheError: the store did not drop them.
        """
        self.device_tier.drop(key)
        self.store.delete(key)

    def flush(self) -> None:
        """Wait until what was recorded is as durable as the store makes it."""
        try:
            self.store.flush()
        except CacheError as error:
            log.warning("records may not last: %s", error)

    def drop_useless(self, key: str, reader: TemplateReader) -> None:
        """After an edit: drop what was of no use to it, so that the next edit makes it anew."""
        if reader.is_foreign:
            log.warning("template %s has records that are not this model's, and is dropped", key)
            self._drop(key)
        elif reader.is_lost:  # in the store there may be a successor, which is not this edit's to drop
            self.device_tier.drop(key)
        elif reader.is_below:  # the next edit shall find it nearer
            self.prefetch(key)

    def close(self) -> None:
        """Let go of the device tier and close the store. A second time it does nothing."""
        self.loader.close()
        self.device_tier.clear()
        self._page_lock.close()
        try:
            self.store.close()
        except CacheError as error:
            log.warning("the cache cannot be closed: %s", error)

    def _reader(self, template: Template, steps: Sequence[int]) -> TemplateReader | None:
        device = self.device_tier.read(template.key)  # before the lease: so a template that is dropped now is noticed
        form = template.form(self._model)
        try:
            lease = self.store.lease(template.key)
            if lease is None and isinstance(self.store, ServiceStore) and not self.store.is_connected:
                raise ServiceError("the cache service does not answer")  # to the store that is a miss, which it is not
        except CacheError as error:
            log.warning("template %s cannot be looked up: %s", template.key, error)
            # Which steps were kept, the store alone knows.
            if not template.drift and self.device_tier.holds(template.key, steps):
                return TemplateReader(form, None, device, self.loader, self.planner)
            device.close()
            return None
        if lease is None:
            device.close()
            self.device_tier.drop(template.key)  # the store's word counts: the template may have been deleted
            return None
        try:
            keyframes = Keyframes.read(lease.note, template.steps)
        except CacheError as error:  # nobody can read it
            log.warning("template %s is dropped: %s", template.key, error)
            device.close()
            lease.release()
            self._drop(template.key)
            return None
        return TemplateReader(form, lease, device, self.loader, self.planner, keyframes)

    def _refused(self, key: str, error: CacheError) -> WarmOutcome:
        if isinstance(error, BeingWrittenError) and self.holds(key):
            return "hit"
        log.warning("template %s is not cached: %s", key, error)
        return "refused"

    def _drop(self, key: str) -> None:
        try:
            self.forget(key)
        except CacheError as error:
            log.warning("template %s cannot be dropped: %s", key, error)

    def _learn(self, loaded: Loaded) -> None:
        if self.planner is not None:
            self.planner.observe_load(loaded)
