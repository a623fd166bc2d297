"""A replica in this process."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from instgenie.balancer.step_costs import StepCosts
from instgenie.editor import Editor
from instgenie.errors import ReplicaError
from instgenie.load_planner import load_planner
from instgenie.order_work import predicted_work
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    Pixels,
    ReplicaStats,
    StepReport,
    WarmOrder,
    WarmReport,
)
from instgenie.prepared_edit import PreparedEdit
from instgenie.records import RecordForm, dtype_name
from instgenie.replica.batch_runner import BatchRunner, as_replica_error
from instgenie.replica.default_limits import default_limits
from instgenie.replica.edit_size import EditSize
from instgenie.replica.job import Call, EditJob
from instgenie.replica.order_request import to_request, to_warm_request
from instgenie.replica.replica_records import ReplicaRecords
from instgenie.sched.limits import BatchLimits
from instgenie.sched.task import EditTask
from instgenie.template import Template
from instgenie.warm_request import WarmOutcome

T = TypeVar("T")

_WARM_UP_STEPS = 2
_MOST_PREFETCHED = 16  # edits that wait, whose records are asked for at a time
_PREPARING_THREADS = 2


class LocalReplica:
    """A `Replica` on an editor of this process, which runs many edits as one batch.

    The editor is the replica's from then on; `close` closes it and its store. An edit is prepared in a thread beside
    the runner's, waits for its turn, is encoded, takes its steps with whatever else runs, is decoded, and is pasted and
    made a file of in a thread beside it again: see sched/README.md.
    """

    def __init__(
        self,
        editor: Editor,
        device: str,
        costs_folder: Path | None = None,
        *,
        plans: bool = False,
        limits: BatchLimits | None = None,
    ) -> None:
        """Args:
        costs_folder: where what `calibrate` measures is kept; None keeps nothing.
        plans: whether steps are planned once the replica is calibrated.
        limits: of batches; None suits the device.
        """
        self._editor = editor
        self._costs_folder, self._plans = costs_folder, plans
        self._size = EditSize.of(editor)
        kept_bytes = editor.shelf.loader.budget_bytes
        limits = limits or default_limits(editor.checkpoint)
        self._model = _model_card(editor, device, self._size.text_tokens, limits)
        self._runner = BatchRunner(editor, limits, kept_bytes, self._refuse)
        self._preparers = ThreadPoolExecutor(_PREPARING_THREADS, "prepare")
        self._records = ReplicaRecords(editor)
        self._numbers = itertools.count()
        self._calls: set[Call] = set()
        self._watchers: set[Call] = set()
        self._prefetching: set[asyncio.Task[None]] = set()
        self._refusal: str | None = None  # why nothing is done any more
        self._is_draining = False
        self._idle = asyncio.Event()
        self._is_closed = False
        self._runner.start()

    @property
    def model(self) -> ModelCard:
        """See `Replica`."""
        return self._model

    @property
    def costs(self) -> StepCosts:
        """What steps take just now: as calibrated, where that could be trusted, else as learned from edits."""
        planner = self._editor.shelf.planner
        return self._runner.costs.step_costs(None if planner is None else planner.costs)

    def predicted_seconds(self, order: EditOrder) -> float:
        """See `Replica`. The template is taken as warm."""
        return self._runner.costs.edit_cost.predict(predicted_work(order, self._model))

    async def calibrate(self) -> None:
        """Run a short edit, so that the first one finds the device warm and its cost known; then measure for plans."""
        side = self._model.canvas_pixels
        mask = np.zeros((side, side), np.uint8)
        mask[side // 3 : side // 2, side // 3 : side // 2] = 1
        picture = Pixels(side, side, "RGB", bytes(3 * side * side))
        for _ in range(2):
            self._runner.forget_costs()  # the first edit is slower: memory is taken, kernels are chosen
            await self.edit(
                EditOrder(
                    id="calibration",
                    picture=picture,
                    mask=mask.tobytes(),
                    prompt="calibration",
                    seed=0,
                    steps=_WARM_UP_STEPS,
                    cache="off",
                ),
                lambda _: None,
            )
        if self._plans:
            await self._on_device(self._load_planner)

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`."""
        arrived = time.monotonic()
        with self._call() as call:
            job = EditJob(str(next(self._numbers)), order, call, report)
            try:
                prepared = job.prepared = await self._prepare(lambda: self._editor.prepare(to_request(order)))
                if len(self._calls) > 1:
                    self._prefetch(prepared)
                task = self._task(job, prepared, order, arrived)
                del prepared  # the runner lets go of it, and of the picture, when it is encoded
                self._runner.submit(job, task)
                outcome: EditOutcome
                outcome, key = await call.future
            finally:
                job.leave()
                self._runner.cancel(job)
        if outcome.timings.cache == "hit":
            self._records.note_hit(key)
        return outcome

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """See `Replica`."""
        with self._call():
            await self._warm(order, report)

    async def _warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        request = await self._prepare(lambda: to_warm_request(order))
        windows = await self._prepare(lambda: self._editor.encoder.windows(request))
        for number, window in enumerate(windows):
            template = await self._on_device(partial(self._editor.encoder.template, request, window))
            outcome = await self._record(template, order.namespace)
            warmed = await asyncio.to_thread(self._editor.warmed, number, windows, template, outcome)
            if outcome != "refused":
                self._records.count_from_now(warmed.key)
            report(
                WarmReport(
                    warmed.number, warmed.windows, warmed.window.box, warmed.key, warmed.num_bytes, warmed.outcome
                )
            )

    async def pin(self, keys: Iterable[str]) -> int:
        """See `Replica`."""
        return await self._records.pin(keys)

    async def unpin(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        await self._records.unpin(keys)

    async def forget(self, keys: Iterable[str]) -> None:
        """See `Replica`."""
        await self._records.forget(keys)

    async def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """See `Replica`."""
        return await self._records.held(keys)

    async def stats(self) -> ReplicaStats:
        """See `Replica`."""
        return self._runner.stats()

    async def drain(self) -> None:
        """See `Replica`."""
        self._is_draining = True
        while self._calls:
            self._idle.clear()
            await self._idle.wait()

    async def watch(self) -> None:
        """Wait until the runner can go on no more, or the replica is closed.

        Raises:
            ReplicaError: the reason.
        """
        watcher = Call(asyncio.get_running_loop())
        self._watchers.add(watcher)
        try:
            if self._refusal is not None:
                raise ReplicaError(self._refusal)
            await watcher.future
        finally:
            self._watchers.discard(watcher)

    async def close(self) -> None:
        """See `Replica`."""
        self._refuse("the replica was closed")
        if self._is_closed:
            return
        self._is_closed = True
        await asyncio.to_thread(self._preparers.shutdown)
        await asyncio.to_thread(self._runner.close)
        await asyncio.gather(*self._prefetching)
        await self._records.close()
        await asyncio.to_thread(self._editor.close)

    def _refuse(self, reason: str) -> None:
        """Fail what runs and waits, and whatever comes. Any thread may call it."""
        self._refusal = reason
        for call in [*self._calls, *self._watchers]:
            call.fail(ReplicaError(reason))

    @contextmanager
    def _call(self, *, is_part: bool = False) -> Iterator[Call]:
        """A caller who waits for the runner, while the block runs.

        Args:
            is_part: of an order that was taken.
        Raises:
            ReplicaError: no orders are taken.
        """
        if self._is_draining and not is_part:
            raise ReplicaError(self._refusal or "the replica takes no more orders: it is stopping")
        call = Call(asyncio.get_running_loop())
        self._calls.add(call)
        try:
            if self._refusal is not None:  # looked at once `_refuse` sees the call: another thread may be at it
                raise ReplicaError(self._refusal)
            yield call
        finally:
            call.leave()
            self._calls.discard(call)
            self._idle.set()

    async def _prepare(self, act: Callable[[], T]) -> T:
        """Do something on the host, beside the runner.

        Raises:
            InstGenIEError: what went wrong.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._preparers, act)
        except RuntimeError as error:
            if self._refusal is None:
                raise as_replica_error(error) from error
            raise ReplicaError(self._refusal) from error  # there are no threads any more
        except Exception as error:
            raise as_replica_error(error) from error

    async def _on_device(self, act: Callable[[], T]) -> T:
        """Do something with the device, between two steps.

        Raises:
            InstGenIEError: what went wrong.
        """
        with self._call(is_part=True) as call:

            def do() -> None:
                if call.is_left:
                    return
                try:
                    call.settle(act())
                except Exception as error:  # noqa: BLE001 its caller is told
                    call.fail(as_replica_error(error))

            self._runner.call(do)
            result: T = await call.future
            return result

    async def _record(self, template: Template, tenant: str) -> WarmOutcome:
        with self._call(is_part=True) as call:
            try:
                self._runner.warm(template, tenant, call.settle)
                outcome: WarmOutcome = await call.future
                return outcome
            finally:
                self._runner.leave_warming(template.key, call.settle)

    def _prefetch(self, prepared: PreparedEdit) -> None:
        """While an edit waits, its records may come nearer."""
        if prepared.is_cached and len(self._prefetching) < _MOST_PREFETCHED:
            task = asyncio.create_task(self._records.prefetch(prepared.key))
            self._prefetching.add(task)
            task.add_done_callback(self._prefetching.discard)

    def _task(self, job: EditJob, prepared: PreparedEdit, order: EditOrder, arrived: float) -> EditTask:
        index = prepared.index
        return EditTask(
            id=job.id,
            tenant=order.namespace,
            priority=order.priority,
            arrived=arrived,
            deadline=None if order.deadline_seconds is None else arrived + order.deadline_seconds,
            batch_key=self._model.revision,
            steps=prepared.steps,
            passes=prepared.passes,
            text_tokens=self._size.text_tokens,
            active_tokens=index.num_active,
            total_tokens=index.num_tokens,
            num_bytes=self._size.num_bytes(prepared),
            refresh_steps=prepared.refresh_steps,
            extrapolated_steps=prepared.extrapolated_steps,
        )

    def _load_planner(self) -> None:
        editor = self._editor
        editor.plan_steps(load_planner(editor.checkpoint, editor.codec, self._costs_folder))


def _model_card(editor: Editor, device: str, text_tokens: int, limits: BatchLimits) -> ModelCard:
    checkpoint = editor.checkpoint
    settings, forward, patch = checkpoint.settings, checkpoint.forward, checkpoint.codec.patch
    canvas_pixels = round(patch * settings.canvas_tokens**0.5)
    tokens = (canvas_pixels // patch) ** 2
    form = RecordForm(forward.dtype, tokens, forward.num_heads, forward.head_dim, forward.num_blocks, editor.codec)
    return ModelCard(
        measured=checkpoint.measured if editor.codec == "raw" and not editor.drift else (),  # as it was measured
        name=settings.name,
        revision=checkpoint.revision,
        dtype=dtype_name(forward.dtype),
        device=device,
        steps=settings.steps,
        guidance=settings.guidance,
        distilled=checkpoint.distilled,
        canvas_pixels=canvas_pixels,
        patch=patch,
        text_tokens=text_tokens,
        step_bytes=form.step_bytes,
        batch_edits=limits.edits,
        batch_tokens=limits.rows,
        draws=settings.draws,
    )
