"""Runs what a scheduler decides: one thread owns the device, and takes one step of the whole batch at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from PIL import Image

from instgenie.batch_step import BatchOutcome, LaneStep, run_step
from instgenie.editor import Editor
from instgenie.errors import DeadlineError, InstGenIEError, ReplicaError, TemplateNotCachedError
from instgenie.host import await_device
from instgenie.orders import EditOutcome, PhaseTimings, ReplicaStats, StepReport
from instgenie.replica.job import EditJob
from instgenie.replica.lane_desk import LaneDesk, OnWarmed
from instgenie.replica.learned_costs import LearnedCosts, expected_step
from instgenie.replica.mailbox import Mailbox
from instgenie.replica.output_file import encode_picture, preview_steps
from instgenie.running_edit import RunningEdit, phase
from instgenie.sched.limits import BatchLimits
from instgenie.sched.scheduler import Scheduler
from instgenie.sched.step_batch import Ended, StageItem, StepBatch, StepResult
from instgenie.sched.task import EditTask
from instgenie.template import Template
from instgenie.tracing import current_tracer

log = logging.getLogger(__name__)

_FINISHING_THREADS = 2
# That a step waits for the store to say what serves an edit that was encoded, and is to join it: so long, or that share
# of the last step. On two busy cores an answer takes 2 to 5 ms, and who misses a step of 100 ms waits for all of it.
_LOOK_UP_SECONDS = 0.002
_LOOK_UP_SHARE = 0.1


@dataclass(slots=True)
class _Counts:
    """What the runner did since it began, as in `ReplicaStats`."""

    tokens: int = 0
    steps: int = 0
    edit_steps: int = 0
    busy_seconds: float = 0.0
    stall_seconds: float = 0.0
    done: int = 0
    failed: int = 0
    ended: dict[str, int] = field(default_factory=lambda: {"cancelled": 0, "expired": 0})


class BatchRunner:
    """Takes edits and templates, and works on them together. Any thread may call it.

    What is between a prepared edit and its picture on the canvas is done in the runner's thread, piece by piece between
    two steps; what comes after, pasting and encoding files, in threads of its own.
    """

    def __init__(self, editor: Editor, limits: BatchLimits, kept_bytes: int, on_failure: Callable[[str], None]) -> None:
        """Args:
        kept_bytes: of device memory that lanes may keep steps in: see `LaneDesk`.
        on_failure: called in the runner's thread, where that can go on no more, with the reason.
        """
        self._on_failure = on_failure
        self._editor = editor
        self._clock = time.monotonic
        self._mailbox = Mailbox()
        self._scheduler = Scheduler(limits)
        self._lanes = LaneDesk(editor, self._scheduler, self._mailbox, kept_bytes, self._clock)
        self._jobs: dict[str, EditJob] = {}
        self._finishing: set[EditJob] = set()  # their files are being made
        self._acts: deque[Callable[[], None]] = deque()  # of callers, beside edits
        self._counts = _Counts()
        self._step_seconds = 0.0  # of the last step
        self._began_at: float | None = None  # the turn that the thread is at; None while there is nothing to do
        self._is_stopping = False
        self.costs = LearnedCosts()
        self._finishers = ThreadPoolExecutor(_FINISHING_THREADS, "pictures")
        self._thread = threading.Thread(target=self._run, name="runner", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def submit(self, job: EditJob, task: EditTask) -> None:
        """Run an edit that was prepared: its outcome goes to its caller."""
        self._mailbox.post(partial(self._submit, job, task))

    def cancel(self, job: EditJob) -> None:
        """The caller of an edit has left: it ends before the next step."""
        self._mailbox.post(partial(self._scheduler.cancel, job.id))

    def warm(self, template: Template, tenant: str, on_warmed: OnWarmed) -> None:
        """Record a template, if it is not there; `on_warmed` is called in the runner's thread."""
        self._mailbox.post(partial(self._lanes.warm, template, tenant, on_warmed))

    def leave_warming(self, template: str, on_warmed: OnWarmed) -> None:
        """Who had a template recorded has left."""
        self._mailbox.post(partial(self._lanes.leave_warming, template, on_warmed))

    def call(self, act: Callable[[], None]) -> None:
        """Do something with the device between two steps, one such thing at a time. It must not raise."""
        self._mailbox.post(partial(self._acts.append, act))

    def forget_costs(self) -> None:
        """Learn anew what edits cost, from the next one on."""
        self.costs = LearnedCosts()

    def stats(self) -> ReplicaStats:
        """What it does just now; of the moment, where the runner is at work."""
        counts, phases, began_at = self._counts, self._scheduler.counts(), self._began_at
        return ReplicaStats(
            waiting=phases.waiting + phases.opening + phases.ready,
            running=phases.running + phases.parked,
            finishing=phases.finishing + len(self._finishing),
            lanes=len(self._lanes),
            tokens=counts.tokens,
            steps=counts.steps,
            edit_steps=counts.edit_steps,
            step_age_seconds=0.0 if began_at is None else max(0.0, self._clock() - began_at),
            busy_seconds=counts.busy_seconds,
            stall_seconds=counts.stall_seconds,
            done=counts.done,
            failed=counts.failed,
            cancelled=counts.ended["cancelled"],
            expired=counts.ended["expired"],
        )

    def close(self) -> None:
        """Give up what runs, and wait for the threads. Callers are not told."""
        self._is_stopping = True
        self._mailbox.post(lambda: None)
        if self._thread.ident is not None:
            self._thread.join()
        self._finishers.shutdown()
        for job in list(self._jobs.values()):
            self._let_go(job)
        self._lanes.close()
        self._mailbox.close()

    # Everything below runs in the runner's thread, but for `_finish_soon`, `_finish` and `_finish_preview`.

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._turn()
        except Exception as error:  # a fault of ours: what edits do wrong is theirs
            log.exception("the runner failed")
            self._on_failure(f"the replica failed: {type(error).__name__}: {error}")

    def _turn(self) -> None:
        self._began_at = self._clock()
        self._hear()
        tracer, now = current_tracer(), self._clock()
        with tracer.span("schedule"):
            batch = self._scheduler.schedule(now)
        for ended in batch.ended:
            self._end(ended)
        if batch.is_empty and not self._acts:
            self._began_at = None
            wakes_at = self._scheduler.next_deadline()
            self._mailbox.wait(None if wakes_at is None else max(0.0, wakes_at - now))
            return
        if batch.stage is not None:
            self._do(batch.stage)
            if batch.stage.kind == "encode":
                self._await_look_up()
            return
        if self._acts:
            self._acts.popleft()()
        if batch.has_step:
            self._step(batch)

    def _hear(self) -> None:
        for message in self._mailbox.take():
            message()

    def _await_look_up(self) -> None:
        """Give the store some time to answer, whatever else comes meanwhile."""
        until = self._clock() + max(_LOOK_UP_SECONDS, _LOOK_UP_SHARE * self._step_seconds)
        while self._lanes.is_asking and not self._is_stopping and (seconds := until - self._clock()) > 0:
            self._mailbox.wait(seconds)
            self._hear()

    def _submit(self, job: EditJob, task: EditTask) -> None:
        if not job.call.is_left:
            self._jobs[job.id] = job
            self._scheduler.submit(task)

    def _do(self, stage: StageItem) -> None:
        job = self._jobs.get(stage.edit)
        if job is None:
            return
        try:
            if stage.kind == "encode":
                self._encode(job)
            elif stage.kind == "decode":
                self._decode(job)
            elif job.snapshots:
                self._decode_preview(job)
        except Exception as error:  # noqa: BLE001 its caller is told
            self._scheduler.drop(job.id)
            self._fail(job, error)

    def _encode(self, job: EditJob) -> None:
        if (prepared := job.prepared) is None:  # the caller has left
            self._scheduler.cancel(job.id)
            return
        job.edit = self._editor.encode(prepared, name=job.name)
        await_device(self._editor.checkpoint.forward.device)  # what it takes is the encoding's, not the next step's
        job.prepared = None
        job.preview_steps = preview_steps(job.edit.landings, job.previews)
        self._lanes.open(job, self._on_missing)
        job.reports.add(StepReport(0, job.edit.steps))

    def _on_missing(self, job: EditJob) -> None:
        assert job.edit is not None
        self._scheduler.drop(job.id)
        self._fail(job, TemplateNotCachedError(f"template {job.edit.template_key} is not cached"))

    def _step(self, batch: StepBatch) -> None:
        jobs = map(self._jobs.get, batch.edits)  # one may have ended with this batch
        edits = [(job, job.edit) for job in jobs if job is not None and job.edit is not None]
        planner, running = self._editor.shelf.planner, [edit for _, edit in edits]
        expected = expected_step(None if planner is None else planner.costs, running)
        before = [edit.step for edit in running]
        outcome, failed = self._compute(running, batch)
        if not batch.lanes and not failed:
            self.costs.observe_step(running, expected, outcome)
        tracer = current_tracer()
        with tracer.span("update"):
            stuck = frozenset(job.id for job, edit in edits if edit in outcome.stuck)
            failed_lanes, rerouted = self._lanes.after_step()
            ended = frozenset(job.id for job, edit in edits if edit in failed)
            leaps = {job.id: edit.step - step - 1 for (job, edit), step in zip(edits, before, strict=True)}
            self._scheduler.update(
                StepResult(
                    seconds=outcome.ms / 1000,
                    leaps={job: steps for job, steps in leaps.items() if steps > 0},
                    stuck=stuck,
                    rerouted={job: route for job, route in rerouted.items() if job not in ended},
                    failed=ended,
                    failed_lanes=failed_lanes,
                )
            )
            for job, edit in edits:
                if (error := failed.get(edit)) is not None:
                    self._fail(job, error)
                elif edit not in outcome.stuck:
                    self._report(job, edit)
        self._step_seconds = outcome.ms / 1000
        counts = self._counts
        counts.steps += outcome.ms > 0  # none where the only lane was given up just now
        counts.edit_steps += len(edits)
        counts.tokens = batch.rows
        counts.busy_seconds += outcome.ms / 1000
        counts.stall_seconds += outcome.stall_ms / 1000
        tracer.count("batch", edits=len(edits), lanes=len(batch.lanes))
        tracer.count("tokens", computed=batch.rows)

    def _compute(
        self, edits: Sequence[RunningEdit], batch: StepBatch
    ) -> tuple[BatchOutcome, dict[RunningEdit, Exception]]:
        """Take the batch's step; what fails is found by taking it one by one."""
        forward, planner = self._editor.checkpoint.forward, self._editor.shelf.planner
        # A lane that was for an edit which has just ended may be over.
        lanes = [entry for entry in batch.lanes if self._lanes.has(entry.template)]
        steps = [
            (entry.template, LaneStep(self._lanes.lane(entry.template), step))
            for entry in lanes
            for step in entry.steps
        ]
        riding = [step for _, step in steps if step.lane.rides]
        alone = [(template, step) for template, step in steps if not step.lane.rides]
        ms, failed = 0.0, dict[RunningEdit, Exception]()
        for template, step in alone:
            ms += self._try_lane(template, step)
        try:
            outcome = run_step(forward, edits, riding, planner) if edits or riding else BatchOutcome(0, 0, frozenset())
            return BatchOutcome(ms + outcome.ms, outcome.stall_ms, outcome.stuck), failed
        except Exception:
            log.exception("a step of %d edits failed, they take it one by one", len(edits))
        stall_ms, stuck = 0.0, frozenset[RunningEdit]()
        for template, step in steps:
            if step.lane.rides:
                ms += self._try_lane(template, step)
        for edit in edits:
            try:
                outcome = run_step(forward, [edit], planner=planner)
            except Exception as error:  # noqa: BLE001 its caller is told
                failed[edit] = error
            else:
                ms, stall_ms, stuck = ms + outcome.ms, stall_ms + outcome.stall_ms, stuck | outcome.stuck
        return BatchOutcome(ms, stall_ms, stuck), failed

    def _try_lane(self, template: str, step: LaneStep) -> float:
        try:
            return run_step(self._editor.checkpoint.forward, [], [step]).ms
        except Exception:
            log.exception("template %s cannot be recorded", template)
            self._lanes.give_up(template)
            return 0.0

    def _report(self, job: EditJob, edit: RunningEdit) -> None:
        is_shown = edit.step in job.preview_steps
        if is_shown:
            job.snapshots.append((edit.step, edit.state.predicted))
            self._scheduler.want_preview(job.id)
        job.reports.add(StepReport(edit.step, edit.steps), awaits_preview=is_shown)
        if edit.done:
            edit.close()
            self._lanes.leave(job)

    def _decode_preview(self, job: EditJob) -> None:
        assert job.edit is not None
        step, latents = job.snapshots.popleft()
        if job.snapshots:
            self._scheduler.want_preview(job.id)
        try:
            with current_tracer().span("preview", edit=job.name):
                canvas = job.edit.decode(latents)
        except Exception:
            log.exception("a preview cannot be made")
            job.reports.add_preview(step, None)
        else:
            job.files.append(self._finishers.submit(self._finish_preview, job, job.edit, step, canvas))

    def _decode(self, job: EditJob) -> None:
        """The canvas of a finished edit; the rest of it is not the device's."""
        edit = job.edit
        assert edit is not None
        while job.snapshots:
            self._decode_preview(job)
        with phase(edit.timings, "decode_ms", job.name):
            canvas = edit.decode(edit.state.latents)
        self.costs.observe(edit)
        self._scheduler.drop(job.id)
        del self._jobs[job.id]
        self._finishing.add(job)
        self._finish_soon(job, edit, canvas)

    def _finish_soon(self, job: EditJob, edit: RunningEdit, canvas: Image.Image) -> None:
        """Finish a picture once its previews are made. No thread waits for these: others have pictures, too."""
        for file in job.files:
            if not file.done():
                file.add_done_callback(lambda _: self._finish_soon(job, edit, canvas))
                return
        with suppress(RuntimeError):  # the runner was closed meanwhile
            self._finishers.submit(self._finish, job, edit, canvas)

    def _finish_preview(self, job: EditJob, edit: RunningEdit, step: int, canvas: Image.Image) -> None:
        preview = None
        try:
            if not job.call.is_left:
                preview = encode_picture(edit.paste(canvas), job.output)
        except Exception:
            log.exception("a preview cannot be made")
        job.reports.add_preview(step, preview)

    def _finish(self, job: EditJob, edit: RunningEdit, canvas: Image.Image) -> None:
        result: tuple[EditOutcome, str] | None = None
        error: Exception | None = None
        try:
            if not job.call.is_left:
                with current_tracer().span("finish", edit=job.name):
                    result = self._outcome(job, edit, canvas), edit.template_key
        except Exception as failure:  # noqa: BLE001 its caller is told
            error = as_replica_error(failure)
        self._mailbox.post(partial(self._finished, job, is_done=result is not None, is_failed=error is not None))
        if error is not None:
            job.call.fail(error)
        elif result is not None:
            job.call.settle(result)

    def _outcome(self, job: EditJob, edit: RunningEdit, canvas: Image.Image) -> EditOutcome:
        started = time.perf_counter()
        picture = edit.paste(canvas)
        image, (width, height) = encode_picture(picture, job.output), job.output.size or picture.size
        timings = edit.timings
        timings.decode_ms += 1000 * (time.perf_counter() - started)
        worked_ms = timings.encode_ms + timings.record_ms + timings.denoise_ms + timings.decode_ms
        return EditOutcome(
            image,
            width,
            height,
            PhaseTimings(
                queue_ms=max(0.0, 1000 * (time.perf_counter() - job.submitted) - worked_ms),
                encode_ms=timings.encode_ms,
                record_ms=timings.record_ms,
                denoise_ms=timings.denoise_ms,
                decode_ms=timings.decode_ms,
                cache=timings.cache,
                steps=edit.step,
                dense_steps=timings.dense_steps,
                refreshes=timings.refreshes,
                extrapolated_steps=timings.extrapolated_steps,
                tokens_active=timings.tokens_active,
                tokens_total=timings.tokens_total,
                tier=timings.tier,
                stall_ms=timings.stall_ms,
                batch=edit.batch,
            ),
        )

    def _finished(self, job: EditJob, *, is_done: bool, is_failed: bool) -> None:
        self._finishing.discard(job)
        self._counts.done += is_done
        self._counts.failed += is_failed
        if not (is_done or is_failed):
            self._counts.ended["cancelled"] += 1

    def _end(self, ended: Ended) -> None:
        if (job := self._jobs.get(ended.edit)) is None:
            return
        self._counts.ended[ended.reason] += 1
        self._let_go(job)
        if ended.reason == "expired":
            job.call.fail(DeadlineError("the edit cannot be done by its deadline"))

    def _fail(self, job: EditJob, error: Exception) -> None:
        self._counts.failed += 1
        self._let_go(job)
        job.call.fail(as_replica_error(error))

    def _let_go(self, job: EditJob) -> None:
        self._jobs.pop(job.id, None)
        edit = job.edit
        if edit is not None:
            edit.close()
            self._lanes.leave(job)
            job.edit = None
        job.snapshots.clear()


def as_replica_error(error: Exception) -> InstGenIEError:
    """What callers are told of a failure."""
    if isinstance(error, InstGenIEError):
        return error
    log.error("an edit failed", exc_info=error)
    return ReplicaError(f"the edit failed: {type(error).__name__}: {error}")
