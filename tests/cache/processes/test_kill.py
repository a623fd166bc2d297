"""kill -9 of the service at random moments, under two clients that go on.

Three rounds in a plain run, 20 with `--slow`, or as many there as `INSTGENIE_KILL_ROUNDS` says. A failure names its
seed; `INSTGENIE_KILL_SEED` repeats the choices, though not what the processes make of them. With CI=true the seed is
always the same.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from instgenie_cache.client.service_store import ServiceStore
from instgenie_cache.tiers.verify import verify_folder
from tests.cache.named_templates import reads_back, size_of
from tests.cache.processes import kill_client
from tests.cache.processes.service_program import ServiceProgram, service_program

SLOW_ROUNDS = int(os.environ.get("INSTGENIE_KILL_ROUNDS", "20"))
SECONDS_PER_ROUND = 15  # at most; two are usual
WAIT_SECONDS = 40
LONGEST_LIFE_SECONDS = 0.6  # of the service after both clients have written to it
STILLBORN = 0.2  # share of the kills that are followed by another one while the service starts
LONGEST_START_SECONDS = 1.0
FLAGS = ("--host-bytes", "32MiB", "--disk-bytes", "256MiB", "--log-level", "warning")


class Client:
    """A `kill_client` that runs, and what it has told.

    Attributes:
        durable: templates that it flushed and has not begun to delete.
        deleting: those that may be there or not.
    """

    def __init__(self, name: str, other: str, socket: Path, seed: int, arena: str) -> None:
        self.name = name
        self.durable: set[str] = set()
        self.deleting: set[str] = set()
        self.counts: Counter[str] = Counter()
        self.flushes = 0
        command = [sys.executable, kill_client.__file__, str(socket), name, other, str(seed), arena]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)
        self._unread = b""

    def pause(self) -> None:
        """Have it stand still, and hear all that it told before."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert self._process.poll() is None, f"client {self.name} ended with status {self._process.returncode}"
        self.hear()

    def go_on(self) -> None:
        """The reverse of `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def wait_for_flush(self) -> None:
        """Wait until another template is durable."""
        flushes, until = self.flushes, time.monotonic() + WAIT_SECONDS
        while self.flushes == flushes:
            assert time.monotonic() < until, f"client {self.name} wrote nothing for {WAIT_SECONDS} s"
            assert self._process.poll() is None, f"client {self.name} ended with status {self._process.returncode}"
            select.select([self._output], [], [], 1)
            self.hear()

    def hear(self) -> None:
        """Take in what it told so far."""
        while data := self._output.read(1 << 16):
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                self._take(*line.decode().split(" ", 1))

    def end(self) -> None:
        """Ask it to end, and wait for that."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(WAIT_SECONDS) == 0
        self.hear()

    def kill(self) -> None:
        """Whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._output):
            assert stream is not None
            stream.close()

    def _take(self, what: str, told: str) -> None:
        assert what != "wrong", f"client {self.name} read wrong bytes: {told}"
        if what == "durable":
            self.durable.add(told)
            self.flushes += 1
        elif what == "deleting":
            self.durable.discard(told)
            self.deleting.add(told)
        else:
            assert what == "ended", what
            self.counts.update(json.loads(told))


@contextmanager
def two_clients(socket: Path, seed: int) -> Iterator[list[Client]]:
    """One that maps the arena, and one that is sent the bytes."""
    with ExitStack() as stack:
        clients = []
        for name, other, arena in (("a", "b", "read"), ("b", "a", "none")):
            clients.append(Client(name, other, socket, seed, arena))
            stack.callback(clients[-1].kill)
        yield clients


def check_all_that_is_there(service: ServiceProgram, clients: list[Client]) -> None:
    """While the clients stand still: whole templates with the right bytes, among them all that was made durable."""
    report = verify_folder(service.folder)
    assert report.in_use
    assert report.ok, report
    assert report.half_templates == 0, report
    visible = service.templates()
    assert report.templates == len(visible), "a template is on disk that nobody can see"
    assert report.records == sum(size_of(template).records for template in visible)
    lost = {template for client in clients for template in client.durable} - set(visible)
    assert not lost, f"{sorted(lost)} were durable and are gone"
    store = ServiceStore.connect(service.unix, client="test", settings=kill_client.LINK)
    try:
        for template in visible:
            assert reads_back(store, template), f"{template} lacks a step"
    finally:
        store.close()
    assert service.metric("instgenie_cache_corrupt_records_total") == 0


@pytest.mark.timeout(3 * SECONDS_PER_ROUND + 3 * WAIT_SECONDS)
def test_service_is_killed_a_few_times(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(SLOW_ROUNDS * SECONDS_PER_ROUND + 3 * WAIT_SECONDS)
def test_service_is_killed_many_times(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, SLOW_ROUNDS)


def kill_again_and_again(folder: Path, rounds: int) -> None:
    """Every round kills the service while both clients work, starts it again, and looks at all that is there."""
    seed = int(os.environ.get("INSTGENIE_KILL_SEED") or (1 if os.environ.get("CI") == "true" else secrets.randbits(32)))
    chance = random.Random(seed)
    done = 0
    try:
        with service_program(folder / "f", *FLAGS) as service:
            assert service.unix.path is not None
            with two_clients(Path(service.unix.path), seed) as clients:
                for _ in range(rounds):
                    for client in clients:
                        client.wait_for_flush()
                    time.sleep(chance.uniform(0, LONGEST_LIFE_SECONDS))  # the moment is what is random
                    service.kill()
                    for client in clients:
                        client.pause()
                    if chance.random() < STILLBORN:
                        service.begin()
                        time.sleep(chance.uniform(0, LONGEST_START_SECONDS))
                        service.kill()
                    service.start()
                    check_all_that_is_there(service, clients)
                    for client in clients:
                        client.go_on()
                    done += 1
                for client in clients:
                    client.wait_for_flush()
                    client.end()
            check_counts(clients, rounds)
            assert service.stop() == 0
        report = verify_folder(folder / "f")
        assert report.ok, report
        assert not report.in_use
        assert report.half_templates == 0
    except BaseException as error:
        error.add_note(f"seed {seed}, after {done} rounds")
        raise


def check_counts(clients: list[Client], rounds: int) -> None:
    """That the test was one: both clients wrote, read, and were cut off."""
    for client in clients:
        counts = client.counts
        assert counts["written"] > rounds, counts
        assert counts["error ServiceError"] + counts["unreachable"] > 0, counts
        unexpected = {kind for kind in counts if kind.startswith("error ")} - {"error ServiceError"}
        assert not unexpected, counts
    assert sum(client.counts["read"] for client in clients) > 2 * rounds, [client.counts for client in clients]
