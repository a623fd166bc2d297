"""Which templates a replica records just now, and for whom: everything that a lane is besides its steps."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from weakref import WeakSet

from instgenie.editor import Editor
from instgenie.lane import Lane
from instgenie.record_queue import QueuedWriter, RecordQueue
from instgenie.replica.job import EditJob
from instgenie.replica.mailbox import Mailbox
from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import Opened
from instgenie.sched.task import LaneTask, Route
from instgenie.template import Template
from instgenie.template_reader import TemplateReader
from instgenie.warm_request import WarmOutcome

log = logging.getLogger(__name__)

OnWarmed = Callable[[WarmOutcome], None]


@dataclass(slots=True, eq=False)
class LaneEntry:
    """A lane that is under way.

    Attributes:
        jobs: edits that compute with it, or wait for its end.
        warming: told what came of it.
        waiting: called once it is over.
        has_served: an edit has come to its end with it: a step cache needs few of its steps.
    """

    lane: Lane
    writer: QueuedWriter
    jobs: set[EditJob] = field(default_factory=set)
    warming: list[OnWarmed] = field(default_factory=list)
    waiting: list[Callable[[], None]] = field(default_factory=list)
    is_committing: bool = False
    has_served: bool = False

    @property
    def is_needed(self) -> bool:
        """Whether somebody waits for it, or it has served somebody."""
        return bool(self.jobs or self.warming) or self.has_served

    @property
    def is_wanted(self) -> bool:
        """Whether it goes on where an edit has left it: it is needed, or most of it is done."""
        return self.is_needed or 2 * self.lane.next_step >= self.lane.template.steps


class LaneDesk:
    """Finds what serves an edit, begins lanes and ends them. For the runner's thread.

    Stores are asked in a thread of its own, one question at a time: they may be slow, or hang.
    """

    def __init__(
        self, editor: Editor, scheduler: Scheduler, mailbox: Mailbox, kept_bytes: int, clock: Callable[[], float]
    ) -> None:
        """Args:
        kept_bytes: of device memory that lanes may keep steps in, so that edits that come later need not wait for
            their end.
        clock: the scheduler's.
        """
        self._shelf, self._model = editor.shelf, editor.checkpoint.forward
        self._batch_key = editor.checkpoint.revision
        self._scheduler, self._mailbox, self._clock = scheduler, mailbox, clock
        self._kept_bytes = kept_bytes
        self._keeping: WeakSet[Lane] = WeakSet()  # lanes that are over and still read included
        self._lanes: dict[str, LaneEntry] = {}
        self._asked: dict[str, list[Callable[[], None]]] = {}  # templates, and what is done after the answer
        self._warming: set[OnWarmed] = set()  # who waits for a template
        self._failed: set[str] = set()  # since the last step, and not told yet
        self._rerouted: dict[str, Route] = {}
        self._queue = RecordQueue(self._model.device)
        self._asking = ThreadPoolExecutor(1, "templates")
        self._is_closed = False

    def __len__(self) -> int:
        """Lanes that are under way."""
        return len(self._lanes)

    @property
    def is_asking(self) -> bool:
        """Whether the store was asked something that it has not answered."""
        return bool(self._asked)

    def has(self, template: str) -> bool:
        """Whether the template is being recorded."""
        return template in self._lanes

    def lane(self, template: str) -> Lane:
        """A lane that is under way."""
        return self._lanes[template].lane

    def open(self, job: EditJob, on_missing: Callable[[EditJob], None]) -> None:
        """Find what serves an edit that was encoded, and tell the scheduler.

        Args:
            on_missing: called where its template has to be there, and is not.
        """
        edit = job.edit
        if edit is None:  # it ended meanwhile
            return
        if not edit.is_cached:
            self._serve(job, None)
            return
        entry = self._lanes.get(edit.template_key)
        if entry is not None and entry.is_committing:
            entry.waiting.append(lambda: self.open(job, on_missing))
            return
        if entry is not None and not edit.must_hit:
            self._join(job, entry)
            return

        def missing() -> None:
            if job.edit is not None:
                on_missing(job)

        def look() -> Callable[[], None]:
            reader = self._shelf.read(edit)
            if reader is None and edit.must_hit:
                return missing
            made = "hit" if reader is not None else self._shelf.begin_record(edit.template)
            if not isinstance(made, str):
                return lambda: self._begin_for(job, edit.template, self._queue.writer(made))
            if reader is None and made == "hit":
                reader = self._shelf.read(edit)
            return lambda: self._serve(job, reader)

        self._ask(edit.template_key, look, lambda: self._serve(job, None), again=lambda: self.open(job, on_missing))

    def warm(self, template: Template, tenant: str, on_warmed: OnWarmed) -> None:
        """Record a template, if it is not there.

        Args:
            on_warmed: called once it is, or cannot be. `leave_warming` in any case.
        """
        self._warming.add(on_warmed)
        self._warm(template, tenant, on_warmed)

    def _warm(self, template: Template, tenant: str, on_warmed: OnWarmed) -> None:
        if on_warmed not in self._warming:
            return
        key = template.key
        if (entry := self._lanes.get(key)) is not None:
            entry.warming.append(on_warmed)
            return

        def begin(writer: QueuedWriter) -> None:
            if on_warmed not in self._warming:
                writer.abort()
                return
            begun = self._begin(template, writer)
            begun.warming.append(on_warmed)
            self._scheduler.submit_lane(self._task(begun.lane, tenant))

        def look() -> Callable[[], None]:
            made = "hit" if self._shelf.holds(key) else self._shelf.begin_record(template)
            if isinstance(made, str):
                return lambda: on_warmed(made)
            return lambda: begin(self._queue.writer(made))

        self._ask(key, look, lambda: on_warmed("refused"), again=lambda: self._warm(template, tenant, on_warmed))

    def leave_warming(self, template: str, on_warmed: OnWarmed) -> None:
        """Who asked for a template has left. Its lane ends, however much of it is done, unless edits need it: nobody
        would be told of the records, so nobody could have them dropped.
        """
        self._warming.discard(on_warmed)
        if (entry := self._lanes.get(template)) is not None and on_warmed in entry.warming:
            entry.warming.remove(on_warmed)
            if not entry.is_needed:
                self._end_early(template, entry)

    def leave(self, job: EditJob) -> None:
        """An edit is over: its lane goes on where it is of use to somebody else, or nearly done."""
        assert job.edit is not None
        key = job.edit.template_key
        if (entry := self._lanes.get(key)) is not None and job in entry.jobs:
            entry.jobs.discard(job)
            entry.has_served |= job.edit.done
            self._end_unwanted(key, entry)

    def after_step(self) -> tuple[frozenset[str], dict[str, Route]]:
        """Commit lanes that are done, and give up those whose records the store does not take.

        Returns:
            Templates whose recording is over before its end, and edits that go on another way.
        """
        for key, entry in list(self._lanes.items()):
            if entry.is_committing:
                continue
            if entry.writer.error is not None:
                log.warning("template %s is not cached: %s", key, entry.writer.error)
                self._fail(key, entry)
            elif entry.lane.done:
                self._commit(key, entry)
        failed, rerouted = frozenset(self._failed), self._rerouted
        self._failed, self._rerouted = set(), {}
        return failed, rerouted

    def give_up(self, template: str) -> None:
        """A lane cannot be computed. `after_step` tells of its edits."""
        if (entry := self._lanes.get(template)) is not None:
            entry.writer.abort()
            self._fail(template, entry)

    def close(self) -> None:
        """Drop what is not complete, wait for the store's last answer, and give back what it is. No edit runs."""
        self._is_closed = True
        self._asking.shutdown()
        for message in self._mailbox.take():
            message()
        for entry in self._lanes.values():
            entry.writer.abort()
        self._lanes.clear()
        self._queue.close()

    def _serve(self, job: EditJob, reader: TemplateReader | None) -> None:
        """The edit reads records, or computes all tokens."""
        edit = job.edit
        if edit is None:
            if reader is not None:
                reader.close()
            return
        edit.serve_from(reader)
        if reader is not None:
            edit.timings.cache = "hit"
        self._scheduler.opened(
            Opened(job.id, "dense" if reader is None else "records", edit.template_key, edit.state.record_step)
        )

    def _begin_for(self, job: EditJob, template: Template, writer: QueuedWriter) -> None:
        if job.edit is None:
            writer.abort()
            return
        self._join(job, self._begin(template, writer), is_new=True)

    def _begin(self, template: Template, writer: QueuedWriter) -> LaneEntry:
        num_bytes = template.form(self._model).step_bytes * template.steps
        keeps = num_bytes + sum(lane.num_bytes for lane in self._keeping) <= self._kept_bytes
        lane = Lane(self._model, template, writer.put, keeps_steps=keeps)
        if lane.keeps_steps:
            self._keeping.add(lane)
        entry = self._lanes[template.key] = LaneEntry(lane, writer)
        return entry

    def _join(self, job: EditJob, entry: LaneEntry, *, is_new: bool = False) -> None:
        edit = job.edit
        assert edit is not None
        edit.serve_from(entry.lane)
        edit.timings.cache, edit.timings.tier = "cold", None
        entry.jobs.add(job)
        job.joined_at = self._clock()
        task = self._task(entry.lane, job.tenant) if is_new else None
        opened = Opened(job.id, "lane", edit.template_key, edit.state.record_step, task)
        if not self._scheduler.opened(opened) and task is not None:  # nobody would go on with the lane
            self._end_unwanted(edit.template_key, entry)

    def _task(self, lane: Lane, tenant: str) -> LaneTask:
        shape = lane.shape
        return LaneTask(
            template=lane.template.key,
            tenant=tenant,
            arrived=self._clock(),
            batch_key=self._batch_key,
            steps=lane.template.steps,
            rows=shape.text_tokens + shape.active_tokens,
            num_bytes=lane.num_bytes,
            keeps_steps=lane.keeps_steps,
            rides=lane.rides,
        )

    def _commit(self, key: str, entry: LaneEntry) -> None:
        entry.is_committing = True

        def done(error: Exception | None) -> None:
            self._mailbox.post(lambda: self._committed(key, entry, error))

        entry.writer.commit(entry.lane.compute_ms, entry.lane.keyframes, done)

    def _committed(self, key: str, entry: LaneEntry, error: Exception | None) -> None:
        if self._lanes.get(key) is not entry:  # the desk was closed
            return
        if error is not None:
            log.warning("template %s is not cached: %s", key, error)
        outcome: WarmOutcome = "cold" if error is None else "refused"
        waiting = [job for job in entry.jobs if job.edit is not None and job.edit.lane is entry.lane]
        if entry.lane.keeps_steps or not waiting:
            self._end(key, entry, outcome)
            self._scheduler.committed(key)
            return

        readers: dict[EditJob, TemplateReader | None] = dict.fromkeys(waiting)

        def look() -> Callable[[], None]:
            for job in waiting:
                if (edit := job.edit) is not None:
                    readers[job] = self._shelf.read(edit)
            return go_on

        def go_on() -> None:
            self._go_on(key, entry, readers, outcome)

        self._ask(
            key,
            look,
            go_on,
            again=lambda: self._committed(key, entry, error),
        )

    def _go_on(
        self, key: str, entry: LaneEntry, readers: dict[EditJob, TemplateReader | None], outcome: WarmOutcome
    ) -> None:
        """The template is complete: edits that waited for that read it."""
        for job, reader in readers.items():
            edit = job.edit
            if edit is None:
                if reader is not None:
                    reader.close()
                continue
            if not edit.taken:
                edit.timings.record_ms = 1000 * (self._clock() - job.joined_at)
            edit.serve_from(reader)
            edit.timings.tier = None
            if reader is None:
                self._rerouted[job.id] = "dense"
        self._end(key, entry, outcome)
        self._scheduler.committed(key)

    def _fail(self, key: str, entry: LaneEntry) -> None:
        self._failed.add(key)
        for job in entry.jobs:
            if job.edit is not None and not job.edit.done:
                job.edit.serve_from(None)
                self._rerouted[job.id] = "dense"
        self._end(key, entry, "refused")

    def _end(self, key: str, entry: LaneEntry, outcome: WarmOutcome) -> None:
        del self._lanes[key]
        for on_warmed in entry.warming:
            on_warmed(outcome)
        for act in entry.waiting:
            act()

    def _end_unwanted(self, key: str, entry: LaneEntry) -> None:
        if not entry.is_wanted:
            self._end_early(key, entry)

    def _end_early(self, key: str, entry: LaneEntry) -> None:
        if not entry.is_committing:
            self._scheduler.cancel_lane(key)
            entry.writer.abort()
            self._end(key, entry, "refused")

    def _ask(
        self,
        key: str,
        question: Callable[[], Callable[[], None]],
        on_failure: Callable[[], None],
        again: Callable[[], None],
    ) -> None:
        """Ask the store about a template, one question of each at a time.

        Args:
            question: asked in the store's thread; what it returns is done in the runner's, or `on_failure`, where it
                raised.
            again: done instead, once the question before was answered.
        """
        if self._is_closed:
            return
        if (others := self._asked.get(key)) is not None:
            others.append(again)
            return
        self._asked[key] = []

        def ask() -> None:
            try:
                answer = question()
            except Exception:
                log.exception("template %s cannot be looked up", key)
                answer = on_failure
            self._mailbox.post(lambda: self._answered(key, answer))

        self._asking.submit(ask)

    def _answered(self, key: str, answer: Callable[[], None]) -> None:
        answer()
        for act in self._asked.pop(key):
            act()
