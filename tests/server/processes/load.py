"""Many clients at once, each with a mix of everything, until a number of requests is answered."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.server.processes.requests import edit_form, picture_png, read_events

REPLY_SECONDS = 90.0
NOT_A_PICTURE = b"\x89PNG\r\n\x1a\n and no more"


@dataclass(slots=True)
class Tally:
    """What clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def total(self) -> int:
        """Requests that were answered."""
        return self.statuses.total()


async def load(url: str, clients: int, requests: int, seed: int) -> Tally:
    """Ask `requests` times in all."""
    tally = Tally()
    left = iter(range(requests))
    connector = aiohttp.TCPConnector(limit=clients)
    timeout = aiohttp.ClientTimeout(total=REPLY_SECONDS)
    async with (
        aiohttp.ClientSession(url, connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as group,
    ):
        for number in range(clients):
            group.create_task(_client(session, left, random.Random(f"{seed} {number}"), tally))
    return tally


async def _client(session: aiohttp.ClientSession, left: Iterator[int], rng: random.Random, tally: Tally) -> None:
    asks = (_sync, _sync, _streamed, _job, _job, _bad_picture, _bad_field, _wrong_path, _looks, _leaves)
    for _ in left:
        await rng.choice(asks)(session, rng, tally)


def _form(rng: random.Random, **fields: object) -> aiohttp.FormData:
    return edit_form(picture_png(rng.randrange(8)), seed=rng.randrange(1000), steps=2, **fields)


async def _note(reply: aiohttp.ClientResponse, kind: str, tally: Tally, *expected: int) -> bool:
    """Count the reply; whether it is the expected one. A refusal has to say when to come back."""
    tally.statuses[f"{kind} {reply.status}"] += 1
    if reply.status == 429 and int(reply.headers.get("retry-after", "0")) > 0:
        return False
    if reply.status not in expected:
        tally.problems.append(f"{kind}: {reply.status} {dict(reply.headers)} {(await reply.text())[:300]}")
    return reply.status in expected


async def _sync(session: aiohttp.ClientSession, rng: random.Random, tally: Tally) -> None:
    async with session.post("/v1/images/edits", data=_form(rng)) as reply:
        if await _note(reply, "sync", tally, 200):
            await reply.json()


async def _streamed(session: aiohttp.ClientSession, rng: random.Random, tally: Tally) -> None:
    async with session.post("/v1/images/edits", data=_form(rng, stream="true", partial_images=1)) as reply:
        if await _note(reply, "streamed", tally, 200):
            lines = (await reply.read()).splitlines()  # not line by line: one with a picture is long
            events = [line[7:].strip() for line in lines if line.startswith(b"event: ")]
            if not events or events[-1] != b"image_edit.completed":
                tally.problems.append(f"streamed: ended with {events[-1:]}")


async def _job(session: aiohttp.ClientSession, rng: random.Random, tally: Tally) -> None:
    async with session.post("/v1/edits", data=_form(rng)) as reply:
        if not await _note(reply, "job", tally, 202):
            return
        job = await reply.json()
    if rng.random() < 0.3:
        async with session.delete(f"/v1/edits/{job['id']}") as reply:
            await _note(reply, "cancel", tally, 200)
    async with session.get(f"/v1/edits/{job['id']}/events") as reply:
        if await _note(reply, "events", tally, 200):
            events = await read_events(reply)
            if not events or events[-1] not in ("done", "cancelled"):
                tally.problems.append(f"job: events {events}")
    async with session.get(f"/v1/edits/{job['id']}/image") as reply:
        await _note(reply, "image", tally, 200, 404)


async def _bad_picture(session: aiohttp.ClientSession, rng: random.Random, tally: Tally) -> None:
    path = rng.choice(("/v1/images/edits", "/v1/edits", "/v1/templates"))
    form = aiohttp.FormData({"prompt": "x"} if path != "/v1/templates" else {})
    form.add_field("image", NOT_A_PICTURE, filename="image.png", content_type="image/png")
    async with session.post(path, data=form) as reply:
        await _note(reply, "bad picture", tally, 400)


async def _bad_field(session: aiohttp.ClientSession, rng: random.Random, tally: Tally) -> None:
    fields = rng.choice(({"n": "0"}, {"size": "x"}, {"cache": "maybe"}, {"nonsense": "1"}, {"strength": "nan"}))
    async with session.post("/v1/images/edits", data=_form(rng, **fields)) as reply:
        await _note(reply, "bad field", tally, 400)


async def _wrong_path(session: aiohttp.ClientSession, rng: random.Random, tally: Tally) -> None:
    async with session.get(f"/v1/edits/edit-{rng.randrange(10)}") as reply:
        await _note(reply, "no such job", tally, 404)


async def _looks(session: aiohttp.ClientSession, rng: random.Random, tally: Tally) -> None:
    path = rng.choice(("/v1/edits?limit=20", "/v1/models", "/metrics", "/readyz", "/openapi.json"))
    async with session.get(path) as reply:
        await _note(reply, "look", tally, 200)
        await reply.read()


async def _leaves(session: aiohttp.ClientSession, rng: random.Random, tally: Tally) -> None:
    """An edit at once that its client does not wait for."""
    try:
        async with asyncio.timeout(rng.random() / 5):
            async with session.post("/v1/images/edits", data=_form(rng)) as reply:
                await _note(reply, "left", tally, 200)
                await reply.read()
    except TimeoutError:
        tally.statuses["left early"] += 1


def resident_bytes(process_id: int) -> int:
    """Memory of a process."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise LookupError(process_id)
