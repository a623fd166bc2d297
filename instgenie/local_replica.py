"""A replica in this process: one runner thread owns the device and takes one edit's steps at a time."""

from __future__ import annotations

import asyncio
import io
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instgenie.edit_cost import EditCost, EditWork, edit_work
from instgenie.editor import Editor
from instgenie.errors import InstGenIEError, MaskError, PictureError, ReplicaError
from instgenie.load_planner import load_planner
from instgenie.order_work import predicted_work
from instgenie.orders import (
    EditOrder,
    EditOutcome,
    HeldTemplate,
    ModelCard,
    Output,
    PhaseTimings,
    Pixels,
    StepReport,
    WarmOrder,
    WarmReport,
)
from instgenie.records import dtype_name
from instgenie.replica_job import MORE, GoneError, Job
from instgenie.replica_records import ReplicaRecords
from instgenie.request import EditRequest, EditTimings
from instgenie.running_edit import RunningEdit
from instgenie.warm_request import WarmedWindow, WarmRequest
from instgenie.work_queue import WorkQueue

log = logging.getLogger(__name__)

_WARM_UP_STEPS = 2
_MOST_PREFETCHED = 16  # edits that wait, whose records are asked for at a time


class LocalReplica:
    """A `Replica` on an editor of this process.

    The editor is the replica's from then on, and works in the runner thread alone; `close` closes it and its store.
    """

    def __init__(self, editor: Editor, device: str, costs_folder: Path | None = None, *, plans: bool = False) -> None:
        """Args:
        costs_folder: where what `calibrate` measures is kept; None keeps nothing.
        plans: whether steps are planned once the replica is calibrated.
        """
        self._editor = editor
        self._costs_folder, self._plans = costs_folder, plans
        checkpoint = editor.checkpoint
        self._model = ModelCard(
            name=checkpoint.settings.name,
            revision=checkpoint.revision,
            dtype=dtype_name(checkpoint.forward.dtype),
            device=device,
            steps=checkpoint.settings.steps,
            guidance=checkpoint.settings.guidance,
            distilled=checkpoint.distilled,
            canvas_pixels=round(checkpoint.codec.patch * checkpoint.settings.canvas_tokens**0.5),
            patch=checkpoint.codec.patch,
        )
        self._cost = EditCost()
        self._queue: WorkQueue[Job] = WorkQueue()
        self._arrived = threading.Condition()  # guards the queue and `_is_stopping`
        self._is_stopping = False
        self._waiting: set[Job] = set()
        self._prefetching: set[asyncio.Task[None]] = set()
        self._records = ReplicaRecords(editor)
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
        self._thread.start()

    @property
    def model(self) -> ModelCard:
        """See `Replica`."""
        return self._model

    def predicted_seconds(self, order: EditOrder) -> float:
        """See `Replica`. Active tokens are those of the mask's bounding box, the template is taken as warm."""
        return self._cost.predict(predicted_work(order, self._model))

    async def calibrate(self) -> None:
        """Run a short edit, so that the first one finds the device warm and its cost known; then measure for plans."""
        side = self._model.canvas_pixels
        mask = np.zeros((side, side), np.uint8)
        mask[side // 3 : side // 2, side // 3 : side // 2] = 1
        picture = Pixels(side, side, "RGB", bytes(3 * side * side))
        for _ in range(2):
            self._cost = EditCost()  # the first edit is slower: memory is taken, kernels are chosen
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
            await self._submit(lambda _: self._load_planner())

    async def edit(self, order: EditOrder, report: Callable[[StepReport], None]) -> EditOutcome:
        """See `Replica`."""
        outcome: EditOutcome
        if self._waiting and len(self._prefetching) < _MOST_PREFETCHED:  # meanwhile its records may come nearer
            task = asyncio.create_task(self._records.prefetch(lambda: to_request(order)))
            self._prefetching.add(task)
            task.add_done_callback(self._prefetching.discard)
        outcome, key = await self._submit(lambda job: self._edit(job, order, report), order.priority)
        if outcome.timings.cache == "hit":
            self._records.note_hit(key)
        return outcome

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        """See `Replica`."""
        windows: Iterator[WarmedWindow] | None = None

        def told(window: WarmReport) -> None:
            if window.outcome != "refused":
                self._records.count_from_now(window.key)
            report(window)

        def warm_next(job: Job) -> object:
            nonlocal windows
            if windows is None:
                windows = self._editor.warm(to_warm_request(order), job.check)
            w = next(windows, None)
            if w is None:
                return None
            job.tell(told, WarmReport(w.number, w.windows, w.window.box, w.key, w.num_bytes, w.outcome))
            return None if w.number == w.windows else MORE

        await self._submit(warm_next)

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

    async def close(self) -> None:
        """See `Replica`."""
        self._is_closed = True
        for job in list(self._waiting):
            job.cancelled.set()
            if not job.future.done():
                job.future.set_exception(ReplicaError("the replica was closed"))
        with self._arrived:
            self._is_stopping = True
            self._arrived.notify()
        await asyncio.to_thread(self._thread.join)
        await asyncio.gather(*self._prefetching)
        await self._records.close()
        await asyncio.to_thread(self._editor.close)

    async def _submit(self, work: Callable[[Job], Any], priority: int = 0) -> Any:
        if self._is_closed:
            raise ReplicaError("the replica was closed")
        loop = asyncio.get_running_loop()
        job = Job(work, priority, loop, loop.create_future())
        self._waiting.add(job)
        self._put(job)
        try:
            return await job.future
        finally:
            job.leave()
            self._waiting.discard(job)

    def _put(self, job: Job) -> None:
        with self._arrived:
            self._queue.put(job, time.monotonic(), job.priority)
            self._arrived.notify()

    # Everything below runs in the runner thread.

    def _run(self) -> None:
        while (job := self._take()) is not None:
            try:
                work = job.work
                if work is None:
                    continue
                job.check()
                result = work(job)
                del work
                if result is MORE:
                    self._put(job)
                else:
                    job.settle(result, None)
            except GoneError:
                pass
            except InstGenIEError as error:
                job.settle(None, error)
            except Exception as error:  # whatever an edit does must not end the thread
                log.exception("an edit failed")
                job.settle(None, ReplicaError(f"the edit failed: {type(error).__name__}: {error}"))

    def _take(self) -> Job | None:
        """The next job; None where the replica is closed. Jobs whose callers have gone go with it."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._is_stopping or len(self._queue) > 0)
            return None if self._is_stopping else self._queue.take()

    def _edit(self, job: Job, order: EditOrder, report: Callable[[StepReport], None]) -> tuple[EditOutcome, str]:
        """The outcome, and the key of the edit's template."""
        started = time.perf_counter()
        request = to_request(order)
        with self._editor.start(request, job.check) as running:
            at_steps = preview_steps(running.steps, order.previews)
            job.tell(report, StepReport(0, running.steps))
            while not running.done:
                job.check()
                running.advance()
                preview = None
                if running.step in at_steps:
                    preview = encode_picture(running.preview(), order.output)
                job.tell(report, StepReport(running.step, running.steps, preview))
            result = running.finish()
        self._learn(running, time.perf_counter() - started)
        image, (width, height) = encode_picture(result.picture, order.output), order.output.size or result.picture.size
        timings = _timings(result.timings, 1000 * (started - job.submitted))
        return EditOutcome(image, width, height, timings), running.template_key

    def _load_planner(self) -> None:
        editor = self._editor
        editor.plan_steps(load_planner(editor.checkpoint, editor.codec, self._costs_folder))

    def _learn(self, running: RunningEdit, seconds: float) -> None:
        timings = running.timings
        masked = edit_work(
            steps=running.steps - timings.dense_steps,
            passes=running.passes,
            tokens_active=timings.tokens_active,
            tokens_total=timings.tokens_total,
            is_cold=False,
        )
        dense = edit_work(
            steps=timings.dense_steps,
            passes=running.passes,
            tokens_active=timings.tokens_total,
            tokens_total=timings.tokens_total,
            is_cold=False,
        )
        if timings.cache != "cold":  # whose lane has another number of steps where strength is below 1
            self._cost.observe(EditWork(masked.forwards + dense.forwards, masked.tokens + dense.tokens), seconds)


def to_picture(pixels: Pixels) -> Image.Image:
    """The picture of those bytes."""
    picture = Image.frombytes(pixels.mode, (pixels.width, pixels.height), pixels.data)
    if pixels.icc_profile is not None:
        picture.info["icc_profile"] = pixels.icc_profile
    return picture


def to_request(order: EditOrder) -> EditRequest:
    """The order in the engine's terms.

    Raises:
        InvalidInputError: a value outside its limits.
    """
    picture = order.picture
    expected = picture.width * picture.height
    if len(order.mask) != expected:
        raise MaskError(
            "mask", f"{len(order.mask)} bytes, a picture of {picture.width}x{picture.height} has {expected}"
        )
    if len(picture.data) != expected * len(picture.mode):
        raise PictureError(
            "picture", f"{len(picture.data)} bytes are not {picture.width}x{picture.height} {picture.mode}"
        )
    mask = np.frombuffer(order.mask, np.uint8).reshape(picture.height, picture.width) > 0
    return EditRequest(
        picture=to_picture(order.picture),
        mask=mask,
        prompt=order.prompt,
        seed=order.seed,
        steps=order.steps,
        guidance=order.guidance,
        strength=order.strength,
        halo=order.halo,
        feather=order.feather,
        template_prompt=order.template_prompt,
        template_seed=order.template_seed,
        cached=order.cache != "off",
        must_hit=order.cache == "only",
        crop=order.crop,
        namespace=order.namespace,
    )


def to_warm_request(order: WarmOrder) -> WarmRequest:
    """The order in the engine's terms.

    Raises:
        InvalidInputError: a value outside its limits.
    """
    return WarmRequest(
        picture=to_picture(order.picture),
        boxes=order.boxes,
        max_windows=order.max_windows,
        steps=order.steps,
        guidance=order.guidance,
        template_prompt=order.template_prompt,
        template_seed=order.template_seed,
        namespace=order.namespace,
    )


def encode_picture(picture: Image.Image, output: Output) -> bytes:
    """The picture as a file. JPEG has no alpha: transparency shows white there."""
    if output.size is not None and output.size != picture.size:
        profile = picture.info.get("icc_profile")
        picture = picture.resize(output.size, Image.Resampling.LANCZOS)
        picture.info["icc_profile"] = profile
    settings: dict[str, Any] = {"icc_profile": picture.info.get("icc_profile")}
    if output.format == "png":
        settings["compress_level"] = 1  # 3 times as fast as 6 for a tenth more bytes
    elif output.format == "jpeg":
        settings["quality"] = max(1, output.quality)
        if picture.mode == "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    elif output.quality == 100:
        settings |= {"lossless": True, "exact": True}  # exact: colours under full transparency stay
    else:
        settings["quality"] = output.quality
    file = io.BytesIO()
    picture.save(file, output.format.upper(), **settings)
    return file.getvalue()


def preview_steps(steps: int, previews: int) -> frozenset[int]:
    """After which steps a preview is made: evenly spread, never after the last."""
    return frozenset(round(steps * (i + 1) / (previews + 1)) for i in range(previews)) - {0, steps}


def _timings(timings: EditTimings, queue_ms: float) -> PhaseTimings:
    return PhaseTimings(
        queue_ms=queue_ms,
        encode_ms=timings.encode_ms,
        record_ms=timings.record_ms,
        denoise_ms=timings.denoise_ms,
        decode_ms=timings.decode_ms,
        cache=timings.cache,
        steps=len(timings.step_ms),
        dense_steps=timings.dense_steps,
        tokens_active=timings.tokens_active,
        tokens_total=timings.tokens_total,
        tier=timings.tier,
    )
