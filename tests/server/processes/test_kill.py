"""kill -9 under load: what was accepted ends, exactly once, with the seed and the picture of a run in peace.

A job that took the server down with it three times is given up, and a server cannot tell that from a kill. So every
second kill comes after a job has ended, and one runs at a time: the oldest one, which the kills before may have met,
gets through.
"""

from __future__ import annotations

import asyncio
import base64
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.server.intake.pictures import assert_alike
from tests.server.processes.requests import all_jobs, edit_form, ended_job, picture_png
from tests.server.processes.server_process import ServerProcess

CLIENTS = 4
STEPS = 20  # long enough that most kills meet a running edit
MAX_ACCEPTED = 6  # of a round, before the kill
ONE_AT_A_TIME = ("--set", "limits.running_jobs=1")


@dataclass(slots=True)
class Ask:
    """A job that a client wants; `reply` is the 202 that it read, `end` the job as it was when its end was read."""

    key: str
    picture: int
    seed: int | None
    reply: dict[str, Any] | None = None
    end: dict[str, Any] | None = None


@dataclass(slots=True)
class Ledger:
    """All that clients know, over all rounds."""

    asks: list[Ask] = field(default_factory=list)

    def new(self, rng: random.Random) -> Ask:
        number = len(self.asks)
        ask = Ask(f"key-{number}", rng.randrange(3), rng.choice([None, number]))
        self.asks.append(ask)
        return ask


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(3, marks=pytest.mark.timeout(400)),
        pytest.param(8, marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)
async def test_nothing_accepted_is_lost(tiny_builtin: Path, tmp_path: Path, rounds: int) -> None:
    rng, ledger = random.Random(rounds), Ledger()
    for number in range(rounds):
        with ServerProcess(tiny_builtin, tmp_path, *ONE_AT_A_TIME) as server:
            await until_killed(server, ledger, rng, after_an_end=number % 2 == 1)
            assert "Traceback" not in server.log()
    with ServerProcess(tiny_builtin, tmp_path, *ONE_AT_A_TIME) as server:
        async with aiohttp.ClientSession(server.url) as session:
            for ask in ledger.asks:
                await check(session, ask)
            listed = [job["id"] for job in await all_jobs(session)]
        assert "Traceback" not in server.log()
    ids = [ask.reply["id"] for ask in ledger.asks if ask.reply]
    assert sorted(listed) == sorted(ids), "a job was lost, or made twice"
    assert len(ids) == len(set(ids)) == len(ledger.asks)


async def until_killed(server: ServerProcess, ledger: Ledger, rng: random.Random, *, after_an_end: bool) -> None:
    """Clients ask, watch and ask again what was not answered; the server is killed after some of their doings."""
    left = rng.randint(1, 3 * MAX_ACCEPTED)
    killed = asyncio.Event()
    may_kill = not after_an_end

    def happened(event: bytes = b"") -> None:
        nonlocal left, may_kill
        left -= 1
        may_kill = may_kill or event == b"done"
        if left <= 0 and may_kill:
            server.process.kill()
            killed.set()

    unanswered = [ask for ask in ledger.asks if ask.reply is None]
    accepted = 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal accepted
        while not killed.is_set():
            if accepted < MAX_ACCEPTED or unanswered:
                ask = unanswered.pop() if unanswered else ledger.new(rng)
                accepted += 1
                await submit(session, ask)
                happened()
            else:
                ask = rng.choice([ask for ask in ledger.asks if ask.reply])
            assert ask.reply is not None
            async with session.get(f"/v1/edits/{ask.reply['id']}/events") as response:
                async for line in response.content:
                    if line.startswith(b"event: "):
                        happened(line.removeprefix(b"event: ").strip())
            await note_end(session, ask)

    async with aiohttp.ClientSession(server.url) as session, asyncio.timeout(120):
        outcomes = await asyncio.gather(*(client(session) for _ in range(CLIENTS)), return_exceptions=True)
    assert killed.is_set(), server.log()
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, aiohttp.ClientError | ConnectionError):
            raise outcome


async def submit(session: aiohttp.ClientSession, ask: Ask) -> None:
    """Ask for the job; a second time gives the first one."""
    form = edit_form(picture_png(ask.picture), seed=ask.seed, steps=STEPS)
    async with session.post("/v1/edits", data=form, headers={"Idempotency-Key": ask.key}) as response:
        assert response.status == 202, await response.text()
        reply = await response.json()
    ask.reply = reply
    assert ask.seed is None or reply["seed"] == ask.seed


async def note_end(session: aiohttp.ClientSession, ask: Ask) -> None:
    """Remember the job's end; if it had one before, it is the same one."""
    assert ask.reply is not None
    async with session.get(f"/v1/edits/{ask.reply['id']}") as response:
        assert response.status == 200, await response.text()
        job = await response.json()
    if job["status"] != "done":
        assert job["status"] in ("queued", "running"), job
        assert ask.end is None, f"a job that was done is {job['status']}"
        return
    job.pop("image_url")  # signed anew by every process
    assert ask.end in (None, job), "a job came to its end twice"
    ask.end = job


async def check(session: aiohttp.ClientSession, ask: Ask) -> None:
    """The job ends as done, and its picture is that of the same edit at once."""
    if ask.reply is None:
        await submit(session, ask)
    assert ask.reply is not None
    job_id, seed = ask.reply["id"], ask.reply["seed"]
    assert (await ended_job(session, job_id))["seed"] == seed
    await note_end(session, ask)
    assert ask.end is not None, "a job was left behind"
    async with session.get(f"/v1/edits/{job_id}/image") as response:
        assert response.status == 200
        image = await response.read()
    form = edit_form(picture_png(ask.picture), seed=seed, steps=STEPS)
    async with session.post("/v1/images/edits", data=form) as response:
        assert response.status == 200
        (reference,) = (await response.json())["data"]
    assert_alike(image, base64.b64decode(reference["b64_json"]))
