"""`/v1/edits/{id}/events`: what happens to a job, as it happens, and again for those who come back."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from instgenie.errors import MaskError
from instgenie_server.settings import Settings
from tests.server.routes.scripted_replica import STEPS, ScriptedEdit, ScriptedReplica
from tests.server.routes.site import Site, form, ready, running_site, sse_events, until

EDITS = "/v1/edits"
Event = tuple[int, str, dict[str, Any]]


async def events_of(site: Site, job_id: str, count: int | None = None, last: int | None = None) -> list[Event]:
    """The first events of a job, or all until its end."""
    found: list[Event] = []
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    async with site.session.get(f"{EDITS}/{job_id}/events", headers=headers) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        async with aclosing(sse_events(response)) as events:
            async for event in events:
                data = json.loads(event["data"])
                state = "running" if event["event"] in ("started", "step") else event["event"]
                assert (data.pop("id"), data.pop("status")) == (job_id, state)
                found.append((int(event["id"]), event["event"], data))
                if len(found) == count:
                    break
        response.close()
    return found


def names(events: list[Event]) -> list[str]:
    return [name for _, name, _ in events]


async def test_all_of_a_job_in_order(tiny: Site) -> None:
    job = await tiny.ask("POST", EDITS, 202, data=form(partial_images=1))
    events = await events_of(tiny, job["id"])
    ids = [number for number, _, _ in events]
    assert ids == sorted(set(ids))
    assert [name for name in names(events) if name != "queued"] == ["started", *["step"] * 5, "done"]
    steps = [data for _, name, data in events if name == "step"]
    assert [data["step"] for data in steps] == [0, 1, 2, 3, 4]
    assert {data["steps"] for data in steps} == {4}
    _, _, done = events[-1]
    assert (done["width"], done["height"], done["timings"]["steps"]) == (64, 64, 4)
    assert await events_of(tiny, job["id"]) == [
        (number, name, {key: value for key, value in data.items() if key != "preview_b64"})
        for number, name, data in events
    ]


async def test_previews(site: Site, scripted: ScriptedReplica) -> None:
    job = await site.ask("POST", EDITS, 202, data=form(partial_images=2))
    edit = await scripted.edits.get()
    assert edit.order.previews == 2
    edit.step(1, b"a picture")
    watching = asyncio.create_task(events_of(site, job["id"]))
    await until(lambda: site.count(f"{EDITS}/{job['id']}/events") == 1)
    edit.step(2, b"another")
    edit.succeed()
    previews = [data.get("preview_b64") for _, name, data in await watching if name == "step"]
    assert previews[-1] == base64.b64encode(b"another").decode()


@pytest.mark.parametrize("seen", range(STEPS + 3))
async def test_coming_back_loses_nothing_and_repeats_nothing(site: Site, scripted: ScriptedReplica, seen: int) -> None:
    """A watcher leaves after each of the events in turn, and comes back while the job goes on."""
    job = await site.ask("POST", EDITS, 202, data=form())
    edit = await scripted.edits.get()
    for step in range(3):
        edit.step(step)
    first: list[Event] = []
    if seen:
        leaving = asyncio.create_task(events_of(site, job["id"], seen))
        if seen > 4:  # started, 3 steps; queued is gone by then or not
            finish(edit)
        first = await leaving
    finish(edit)
    rest = await events_of(site, job["id"], last=first[-1][0] if first else None)
    everything = await events_of(site, job["id"])
    assert first + rest == everything
    assert names(everything)[-1] == "done"
    assert names(everything).count("step") == STEPS + 1


def finish(edit: ScriptedEdit) -> None:
    if not edit.outcome.done():
        for step in range(3, STEPS + 1):
            edit.step(step)
        edit.succeed()


async def test_who_has_seen_the_end_sees_nothing_more(site: Site, scripted: ScriptedReplica) -> None:
    scripted.at_once = True
    job = await site.ask("POST", EDITS, 202, data=form())
    events = await events_of(site, job["id"])
    assert await events_of(site, job["id"], last=events[-1][0]) == []
    async with site.session.get(f"{EDITS}/{job['id']}/events?last_event_id={events[-2][0]}") as response:
        assert [event["event"] async for event in sse_events(response)] == ["done"]


@pytest.mark.parametrize("last", ["", "0", "none", "-1", "9" * 100, "٣"])
async def test_ids_that_are_none_begin_at_the_start(site: Site, scripted: ScriptedReplica, last: str) -> None:
    scripted.at_once = True
    job = await site.ask("POST", EDITS, 202, data=form())
    everything = await events_of(site, job["id"])
    async with site.session.get(f"{EDITS}/{job['id']}/events", params={"last_event_id": last}) as response:
        assert [int(event["id"]) async for event in sse_events(response)] == [number for number, _, _ in everything]


async def test_positions_in_the_queue(site: Site, scripted: ScriptedReplica) -> None:
    jobs = [await site.ask("POST", EDITS, 202, data=form(seed=seed)) for seed in range(3)]
    edit = await scripted.edits.get()
    watching = asyncio.create_task(events_of(site, jobs[2]["id"]))
    path = f"{EDITS}/{jobs[2]['id']}/events"
    await until(lambda: site.count(path) == 1)
    edit.succeed()
    for _ in range(2):
        (await scripted.edits.get()).succeed()
    queued = [data["position"] for _, name, data in await watching if name == "queued"]
    assert queued == sorted(queued, reverse=True)
    assert queued[0] in (1, 2)


async def test_ends_without_a_picture(site: Site, scripted: ScriptedReplica) -> None:
    failing = await site.ask("POST", EDITS, 202, data=form())
    cancelled = await site.ask("POST", EDITS, 202, data=form())
    expiring = await site.ask("POST", EDITS, 202, data=form(deadline_ms=10))
    edit = await scripted.edits.get()
    await site.ask("DELETE", f"{EDITS}/{cancelled['id']}")
    assert (await events_of(site, expiring["id"]))[-1][1] == "expired"
    assert (await events_of(site, cancelled["id"]))[-1][1] == "cancelled"
    edit.fail(MaskError("mask", "is bad"))
    _, name, data = (await events_of(site, failing["id"]))[-1]
    assert (name, data) == ("failed", {"message": "mask: is bad", "code": "invalid_input", "param": "mask"})


async def test_many_watchers(site: Site, scripted: ScriptedReplica) -> None:
    job = await site.ask("POST", EDITS, 202, data=form())
    edit = await scripted.edits.get()
    watching = [asyncio.create_task(events_of(site, job["id"])) for _ in range(20)]
    await until(lambda: site.count(f"{EDITS}/{job['id']}/events") == 20)
    for step in range(STEPS + 1):
        edit.step(step)
    edit.succeed()
    told = await asyncio.gather(*watching)
    assert all(events[-1][1] == "done" for events in told)
    assert all(names(events).count("step") == STEPS + 1 for events in told)


async def test_after_a_restart_the_end_is_told(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    async with running_site(settings, ready(ScriptedReplica(at_once=True))) as site:
        job = await site.ask("POST", EDITS, 202, data=form())
        events = await events_of(site, job["id"])
    async with running_site(settings, ready(ScriptedReplica())) as site:
        assert await events_of(site, job["id"]) == [events[-1]]
        assert await events_of(site, job["id"], last=events[1][0]) == [events[-1]]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_old_versions_of_http(site: Site, scripted: ScriptedReplica, version: str) -> None:
    """nginx speaks HTTP/1.0 to what lies behind it unless it is told otherwise."""
    scripted.at_once = True
    job = await site.ask("POST", EDITS, 202, data=form())
    await events_of(site, job["id"])
    body = await raw_exchange(site, f"GET {EDITS}/{job['id']}/events HTTP/{version}")
    assert b" 200 OK\r\n" in body
    assert b"event: done\n" in body


async def test_only_the_headers(site: Site) -> None:
    job = await site.ask("POST", EDITS, 202, data=form())
    async with site.session.head(f"{EDITS}/{job['id']}/events") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "GET"


async def raw_exchange(site: Site, line: str) -> bytes:
    """All that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
    writer.write(f"{line}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
