"""The ways in which one edit can find its template: not at all, on disk, in memory, on the device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from bench.cache import running_service
from instgenie.batch_step import LaneStep, run_step
from instgenie.checkpoint import Checkpoint
from instgenie.editor import Editor
from instgenie.lane import Lane
from instgenie.orders import ServingTier
from instgenie.records import DeviceRecord
from instgenie.request import EditRequest, EditTimings
from instgenie_cache import MemoryStore
from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.stores.build_store import StoreSettings, build_store

_DISK_BYTES, _DEVICE_BYTES = 8 << 30, 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How an edit is made.

    Attributes:
        tier: where it finds its records; None where it finds none, or needs none.
        edit: makes it, and is what is measured.
        before, after: what is not.
    """

    name: str
    edit: Callable[[], EditTimings]
    tier: ServingTier | None = None
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None


@contextmanager
def ways(checkpoint: Checkpoint, request: EditRequest, folder: Path, host_bytes: int) -> Iterator[list[Way]]:
    """All of them, the dense edit first. Templates are recorded where they have to be found.

    Args:
        folder: for what is on disk.
        host_bytes: of each memory that records are kept in.
    """
    with ExitStack() as stack:

        def editor(store: MemoryStore | ServiceStore, device_bytes: int = 0) -> Editor:
            made = Editor(checkpoint, store, device_cache_bytes=device_bytes)
            stack.callback(made.close)
            return made

        def warm(name: str, editor: Editor, tier: ServingTier) -> Way:
            for _ in range(2):  # records, then brings it as near as it gets
                editor.edit(request)
                editor.flush()
            return Way(name=name, edit=lambda: editor.edit(request).timings, tier=tier)

        memory = editor(MemoryStore(host_bytes))
        address = stack.enter_context(running_service(folder / "service", host_bytes))
        disk = FromDisk(checkpoint, request, folder / "disk", host_bytes)
        yield [
            Way(name="dense", edit=lambda: memory.dense(request).timings),
            *_cold(memory, request),
            Way(name="warm, disk", edit=disk.edit, tier="disk", before=disk.open, after=disk.close),
            warm("warm, the cache service's memory", editor(ServiceStore.connect(address, client="bench")), "host"),
            warm("warm, own memory", memory, "host"),
            warm("warm, device", editor(MemoryStore(host_bytes), _DEVICE_BYTES), "device"),
        ]


def _cold(editor: Editor, request: EditRequest) -> list[Way]:
    """Of templates that nobody saw before: each has a noise of its own."""
    seeds = count(1)

    def unknown() -> EditRequest:
        return replace(request, template_seed=next(seeds))

    return [
        Way(name="cold, in one batch with its recording", edit=lambda: ride(editor, unknown())),
        Way(name="cold, recorded first", edit=lambda: editor.edit(unknown()).timings),
    ]


def ride(editor: Editor, request: EditRequest) -> EditTimings:
    """An edit that rides with the lane that records its template, as on a replica.

    There a thread of its own puts records into the store; here they are put between two blocks.
    """
    timings = EditTimings()
    running = editor.encode(editor.prepare(request), timings)
    forward = editor.checkpoint.forward
    template = running.template
    with running, editor.store.create(template.key, template.form(forward).size(template.steps)) as writer:

        def put(row: int, block: int, record: DeviceRecord) -> None:
            writer.put(row, block, record.to_host())

        lane = Lane(forward, template, put)
        running.serve_from(lane)
        while not running.done:
            run_step(forward, [running], [LaneStep(lane, lane.next_step)])
        writer.commit(lane.compute_ms)
        running.finish()
    return timings


class FromDisk:
    """Edits whose store was just opened, and whose files the system has not in its memory."""

    def __init__(self, checkpoint: Checkpoint, request: EditRequest, folder: Path, host_bytes: int) -> None:
        self._checkpoint, self._request, self._folder = checkpoint, request, folder
        self._settings = StoreSettings(host_bytes=host_bytes, folder=folder, disk_bytes=_DISK_BYTES)
        self._editor: Editor | None = None
        self.open()
        self.edit()
        self.close()

    def open(self) -> None:
        """A new store on the folder."""
        self._editor = Editor(self._checkpoint, build_store(self._settings))
        with self._editor.start(replace(self._request, cached=False)):  # encodes the picture and the prompt
            forget_pages(self._folder)

    def edit(self) -> EditTimings:
        """The edit."""
        assert self._editor is not None
        return self._editor.edit(self._request).timings

    def close(self) -> None:
        """What was written is on disk then."""
        assert self._editor is not None
        self._editor.close()


def forget_pages(folder: Path) -> None:
    """Have the system drop what it keeps of the folder's files in memory; it keeps pages that somebody has mapped."""
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)
