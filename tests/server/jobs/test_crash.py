"""Killed at any moment and started again, a server ends every job that it accepted, once, and with the right result.

The test is the client: it repeats submissions that were not answered, under the same idempotency key, and resumes
watching where it left off.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from instgenie_server.jobs import Job, JobState
from instgenie_server.jobs.job import MAX_ATTEMPTS
from instgenie_server.jobs.job_events import JobEvents
from instgenie_server.jobs.job_store import JobStore
from instgenie_server.jobs.picture_files import PictureFiles
from instgenie_server.jobs.sweeper import ORPHAN_SECONDS, Sweeper
from instgenie_server.settings import RetentionSettings
from tests.server.jobs import crash_child
from tests.server.jobs.fakes import order_of, result_of

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).resolve().parents[3]
ENDS = [state.value for state in JobState if state.is_end]


@dataclass
class Client:
    """What a client knows: seeds by key, ids by key where it was answered, and per job what it saw."""

    folder: Path
    seeds: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    last_seen: dict[str, int] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)

    def round(self, is_through: Callable[[], bool], new_keys: int = 0, die_at: str = "", delay_ms: float = 0) -> None:
        """Start the server, repeat what was not answered, submit new jobs, and kill it when all is through."""
        for _ in range(new_keys):
            self.seeds[f"key{len(self.seeds)}"] = len(self.seeds) + 7
        command = [sys.executable, crash_child.__file__, str(self.folder), *die_at.split()]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            lines = iter(server.stdout.readline, "")
            try:
                if next(lines, "") == "ready\n":
                    self._ask(server)
                    while not is_through():
                        line = next(lines, "")
                        if not line:
                            break
                        self._learn(line)
                        if line.startswith("accepted") and line.split()[2] not in self.ends:
                            self._say(server, f"watch {line.split()[2]} {self.last_seen.get(line.split()[2], 0)}\n")
                time.sleep(delay_ms / 1000)  # not to wait for anything: the moment is to be a random one
            finally:
                server.kill()
                with contextlib.suppress(BrokenPipeError):  # of what it has not read
                    server.stdin.close()
            for line in lines:  # what was under way when it died
                if line.endswith("\n"):
                    self._learn(line)
            assert server.wait(10) == -9

    def _ask(self, server: subprocess.Popen[str]) -> None:
        submits = [f"submit {key} {seed}\n" for key, seed in self.seeds.items() if key not in self.ids]
        watches = [
            f"watch {job_id} {self.last_seen.get(job_id, 0)}\n"
            for job_id in self.ids.values()
            if job_id not in self.ends
        ]
        self._say(server, "".join(submits + watches))

    def _say(self, server: subprocess.Popen[str], line: str) -> None:
        assert server.stdin is not None
        try:
            server.stdin.write(line)
            server.stdin.flush()
        except BrokenPipeError:  # it killed itself
            return

    def _learn(self, line: str) -> None:
        what, subject, *rest = line.split()
        if what == "accepted":
            assert self.ids.setdefault(subject, rest[0]) == rest[0]
        else:
            event_id, kind = int(rest[0]), rest[1]
            assert subject not in self.ends, f"after the end of {subject} came {line}"
            assert event_id > self.last_seen.get(subject, 0)
            self.last_seen[subject] = event_id
            if kind in ENDS:
                self.ends[subject] = kind

    def fragile(self) -> set[str]:
        """Jobs that will fail, and rightly, if the server is killed once more while it works on them."""
        with contextlib.closing(sqlite3.connect(self.folder / "jobs.sqlite3")) as table:
            statement = "SELECT id FROM jobs WHERE finished_at IS NULL AND attempts >= ?"
            return {row[0] for row in table.execute(statement, (MAX_ATTEMPTS - 1,))}

    def has_all_ends(self) -> bool:
        return set(self.ids) == set(self.seeds) and set(self.ends) == set(self.ids.values())


async def check(client: Client) -> None:
    """The table and the files are as the client saw them, nothing is left over, nothing is missing."""
    async with contextlib.AsyncExitStack() as stack:
        files = PictureFiles(client.folder / "files")
        stack.push_async_callback(files.close)
        await files.open()
        store = await JobStore.open(client.folder / "jobs.sqlite3")
        stack.push_async_callback(store.close)
        retention = RetentionSettings(age_seconds=1e9)
        later = time.time() + 2 * ORPHAN_SECONDS
        await Sweeper(store, files, JobEvents(1, store.get), retention, lambda: later).sweep()
        jobs = (await store.page(crash_child.TENANT, 10_000)).jobs
        assert {job.idempotency_key: job.id for job in jobs} == client.ids
        for job in jobs:
            await check_job(client, files, job)
        assert set(await files.list()) == {digest for kept in await store.kept() for digest in kept.files}


async def check_job(client: Client, files: PictureFiles, job: Job) -> None:
    """It is done, with the parameters that were submitted and the result that they make."""
    key = job.idempotency_key
    assert key is not None
    assert (job.state, client.ends[job.id]) == (JobState.DONE, "done"), job
    assert 1 <= job.attempts <= MAX_ATTEMPTS
    assert job.params == {"prompt": f"an apple for {key}", "seed": client.seeds[key]}
    order = order_of(job, f"image {client.seeds[key] % 4}".encode(), b"mask")
    assert job.result is not None
    assert await files.read(job.result) == result_of(order)


@pytest.mark.parametrize("rounds", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, rounds: int) -> None:
    client, chance = Client(tmp_path), random.Random(rounds)
    for _ in range(rounds):
        lines = chance.randrange(1, 60)
        fragile = client.fragile() if client.seeds else set()
        calls = itertools.count()

        def is_through(lines: int = lines, calls: Iterator[int] = calls, fragile: set[str] = fragile) -> bool:
            return client.has_all_ends() or (next(calls) > lines and fragile <= client.ends.keys())

        client.round(is_through, new_keys=chance.randrange(1, 9), delay_ms=chance.random() * 15)
    client.round(client.has_all_ends)
    asyncio.run(check(client))


@pytest.mark.parametrize("point", crash_child.POINTS)
def test_killed_at(tmp_path: Path, point: str) -> None:
    client = Client(tmp_path)
    client.round(lambda: False, new_keys=2, die_at=point)
    assert not client.has_all_ends()
    client.round(client.has_all_ends)
    asyncio.run(check(client))


def test_killed_over_and_over_by_the_same_job(tmp_path: Path) -> None:
    """A job that takes the server with it each time does not do so for ever."""
    client = Client(tmp_path)
    for number in range(MAX_ATTEMPTS):
        client.round(lambda: False, new_keys=1 if number == 0 else 0, die_at="while it runs")
        assert not client.ends
    client.round(client.has_all_ends)
    assert list(client.ends.values()) == ["failed"]
