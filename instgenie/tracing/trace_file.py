"""A trace file that grows while the process runs."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
from pathlib import Path

from instgenie.errors import ParameterError
from instgenie.tracing.clock import now_ns
from instgenie.tracing.trace_event import TraceEvent, Track, event_json, name_json

log = logging.getLogger(__name__)

_MOST_WAITING = 20_000  # events, some 10 MB
_BATCH = 2_000
_FLUSH_SECONDS = 0.5
_FIRST_OTHER_TRACK = 1 << 22  # Linux numbers threads below


class TraceFile:
    """Chrome trace JSON, an array of events, one a line, written by a thread of its own.

    A file of that name is replaced; but one that a process left unfinished, which may tell why it died, is kept under
    another name.

    Whatever ends the process, readers take the file: its closing bracket is missing then, and at most half a second of
    events. Those that come faster than they are written, or find no room on the disk, are dropped and counted.
    """

    def __init__(self, path: Path, process: str, most_waiting: int = _MOST_WAITING) -> None:
        """Args:
        process: what to call this process.
        most_waiting: events that are held until they are written.

        Raises:
            ParameterError: the file cannot be written.
        """
        self.path, self._most_waiting, self._pid = path, most_waiting, os.getpid()
        self._changed = threading.Condition()  # guards the next three, the others are the writing thread's
        self._waiting: list[TraceEvent] = []
        self._dropped = 0
        self._is_closing = False
        self._is_failing = False
        self._track_numbers: dict[Track, int] = {}
        self._written_bytes = 0
        try:
            _keep_unfinished(path)
            self._file = path.open("wb", buffering=0)
            try:
                self._append("[\n" + name_json("process_name", process, self._pid, 0))
            except OSError:
                self._file.close()
                raise
        except OSError as error:
            raise ParameterError("trace", f"{path}: cannot be written: {error.strerror or error}") from error
        self._thread = threading.Thread(target=self._run, name="trace", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def put(self, event: TraceEvent) -> None:
        """Have it written. It does not wait."""
        with self._changed:
            if self._is_closing:
                return
            if len(self._waiting) >= self._most_waiting:
                self._dropped += 1
                return
            self._waiting.append(event)
            if len(self._waiting) == _BATCH:
                self._changed.notify()

    def close(self) -> None:
        """Write what waits and end the file. A second time it does nothing."""
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)
        self._end()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or len(self._waiting) >= _BATCH, _FLUSH_SECONDS)
                events, self._waiting = self._waiting, []
                is_last = self._is_closing
            self._write(events)
            if is_last:
                return

    def _write(self, events: list[TraceEvent]) -> None:
        known = len(self._track_numbers)
        lines = [event_json(event, self._pid, self._number(event.track)) for event in events]
        new = list(self._track_numbers.items())[known:]
        names = [name_json("thread_name", track.name, self._pid, number) for track, number in new]
        try:
            self._append("".join(f",\n{line}" for line in names + lines))
        except OSError as error:
            for track, _ in new:
                del self._track_numbers[track]
            with self._changed:
                self._dropped += len(events)
            if not self._is_failing:
                log.warning("trace %s cannot be written: %s", self.path, error.strerror or error)
            self._is_failing = True

    def _number(self, track: Track) -> int:
        """Of a thread, the system's; another one where that was another track's, for the system uses numbers again."""
        number = self._track_numbers.get(track)
        if number is None:
            number = track.thread
            if number is None or number in self._track_numbers.values():
                number = _FIRST_OTHER_TRACK + len(self._track_numbers)
            self._track_numbers[track] = number
        return number

    def _end(self) -> None:
        """Say what is missing, and close the bracket."""
        end = "\n]\n"
        if self._dropped:
            missing = TraceEvent("i", "events dropped", now_ns(), 0, Track("trace"), {"count": self._dropped})
            end = f",\n{event_json(missing, self._pid, 0)}{end}"
            log.warning("trace %s lacks %d events: there was no room for them", self.path, self._dropped)
        with contextlib.suppress(OSError):  # readers do without
            self._append(end)
        self._file.close()

    def _append(self, text: str) -> None:
        """Write all of it, or nothing.

        Raises:
            OSError: nothing was written.
        """
        data = memoryview(text.encode())
        written_bytes = 0
        try:
            while written_bytes < len(data):
                written_bytes += self._file.write(data[written_bytes:])
        except OSError:
            with contextlib.suppress(OSError):  # a pipe cannot be cut
                self._file.truncate(self._written_bytes)
                self._file.seek(self._written_bytes)
            raise
        self._written_bytes += written_bytes


def _keep_unfinished(path: Path) -> None:
    """Give a trace without its closing bracket another name: with the time of its last event."""
    if not path.is_file() or not (size := path.stat().st_size):
        return
    with path.open("rb") as file:
        file.seek(max(0, size - 16))
        if file.read().rstrip().endswith(b"]"):
            return
    path.rename(path.with_name(f"{path.stem}.{path.stat().st_mtime_ns}{path.suffix}"))
