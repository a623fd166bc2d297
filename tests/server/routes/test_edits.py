"""`/v1/edits`: accepted, looked up, cancelled, paged; whose they are, and how long their results can be read."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from instgenie.errors import MaskError, TemplateNotCachedError
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import ScryptCost
from instgenie_server.settings import AuthSettings, Settings
from tests.server.intake.pictures import assert_alike, png
from tests.server.routes.scripted_replica import STEPS, ScriptedReplica
from tests.server.routes.site import Site, form, mask_png, picture, ready, running_site

EDITS = "/v1/edits"


async def ended(site: Site, job_id: str, **options: Any) -> dict[str, Any]:
    """The job once it has its end."""
    async with site.session.get(f"{EDITS}/{job_id}/events", **options) as response:
        await response.read()
    job: dict[str, Any] = await site.get(f"{EDITS}/{job_id}", **options)
    return job


async def test_a_job_gives_the_picture_of_the_same_edit_at_once(tiny: Site) -> None:
    async with tiny.session.post(EDITS, data=form(seed=11, output_format="webp")) as response:
        assert response.status == 202
        accepted = await response.json()
        assert response.headers["Location"] == f"{EDITS}/{accepted['id']}"
        assert response.headers["x-request-id"]
    assert re.fullmatch(r"edit-[0-9a-z]{26}", accepted["id"])
    assert (accepted["object"], accepted["status"], accepted["seed"]) == ("edit", "queued", 11)
    assert accepted.get("position") in (None, 1)  # it may run already
    job = await ended(tiny, accepted["id"])
    assert (job["status"], job["step"], job["steps"], job["seed"]) == ("done", 4, 4, 11)
    assert job["cache"] in ("hit", "cold")
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]
    assert {"queue_ms", "encode_ms", "denoise_ms", "decode_ms"} <= job["timings"].keys()
    assert "error" not in job
    at_once = await tiny.ask("POST", "/v1/images/edits", data=form(seed=11, output_format="webp"))
    async with tiny.session.get(f"{EDITS}/{job['id']}/image") as response:
        assert response.content_type == "image/webp"
        assert "private" in response.headers["Cache-Control"]
        assert_alike(await response.read(), base64.b64decode(at_once["data"][0]["b64_json"]))


async def test_a_drawn_seed_makes_the_same_again(tiny: Site) -> None:
    job = await ended(tiny, (await tiny.ask("POST", EDITS, 202, data=form()))["id"])
    again = await ended(tiny, (await tiny.ask("POST", EDITS, 202, data=form(seed=job["seed"])))["id"])
    pictures = [await (await tiny.session.get(f"{EDITS}/{one['id']}/image")).read() for one in (job, again)]
    assert_alike(*pictures)


async def test_while_it_waits_and_runs(site: Site, scripted: ScriptedReplica) -> None:
    first = await site.ask("POST", EDITS, 202, data=form(seed=1))
    edit = await scripted.edits.get()
    second = await site.ask("POST", EDITS, 202, data=form(seed=2))
    third = await site.ask("POST", EDITS, 202, data=form(seed=3, priority=5))
    edit.step(0)
    edit.step(3)
    running = await site.get(f"{EDITS}/{first['id']}")
    assert (running["status"], running["step"], running["steps"]) == ("running", 3, STEPS)
    assert "position" not in running
    assert (await site.get(f"{EDITS}/{third['id']}"))["position"] == 1
    assert (await site.get(f"{EDITS}/{second['id']}"))["position"] == 2
    for state in ("queued", "running"):
        error = await site.error("GET", f"{EDITS}/{first['id']}/image", 404)
        assert error["code"] in (f"edit_{state}", "edit_running")
    edit.succeed()
    assert (await scripted.edits.get()).order.seed == 3


async def test_cancelling_one_that_waits_and_one_that_runs(site: Site, scripted: ScriptedReplica) -> None:
    first = await site.ask("POST", EDITS, 202, data=form())
    edit = await scripted.edits.get()
    second = await site.ask("POST", EDITS, 202, data=form())
    for job in (second, first):
        cancelled = await site.ask("DELETE", f"{EDITS}/{job['id']}")
        assert (cancelled["status"], cancelled["error"]["code"]) == ("cancelled", "cancelled")
        assert await site.ask("DELETE", f"{EDITS}/{job['id']}") == cancelled
        assert await ended(site, job["id"]) == cancelled
        assert (await site.error("GET", f"{EDITS}/{job['id']}/image", 404))["code"] == "edit_cancelled"
    async with asyncio.timeout(30):
        await edit.stopped.wait()
    assert edit.cancelled
    assert scripted.edits.empty()


async def test_cancelling_one_that_is_done_changes_nothing(tiny: Site) -> None:
    job = await ended(tiny, (await tiny.ask("POST", EDITS, 202, data=form()))["id"])
    again = await tiny.ask("DELETE", f"{EDITS}/{job['id']}")
    assert again["status"] == "done"
    assert again["finished_at"] == job["finished_at"]


async def test_leaving_does_not_cancel_a_job(site: Site, scripted: ScriptedReplica) -> None:
    job = await site.ask("POST", EDITS, 202, data=form())
    edit = await scripted.edits.get()
    async with site.session.get(f"{EDITS}/{job['id']}/events") as response:
        await response.content.readline()
        response.close()
    assert (await site.get(f"{EDITS}/{job['id']}"))["status"] == "running"
    edit.succeed()
    assert (await ended(site, job["id"]))["status"] == "done"
    assert not edit.cancelled


async def test_the_same_idempotency_key(site: Site, scripted: ScriptedReplica) -> None:
    key = {"Idempotency-Key": "mine"}
    first = await site.ask("POST", EDITS, 202, data=form(), headers=key)
    async with site.session.post(EDITS, data=form(), headers=key) as response:
        assert response.status == 202
        assert response.headers["Location"] == f"{EDITS}/{first['id']}"
        assert (await response.json())["seed"] == first["seed"]
    for other in (form(prompt="a blue ball"), form(png(picture(1))), form(seed=first["seed"])):
        error = await site.error("POST", EDITS, 422, data=other, headers=key)
        assert (error["param"], error["code"]) == ("Idempotency-Key", "idempotency_conflict")
    (await scripted.edits.get()).succeed()
    await ended(site, first["id"])
    again = await site.ask("POST", EDITS, 202, data=form(), headers=key)
    assert (again["id"], again["status"]) == (first["id"], "done")
    assert len((await site.get(EDITS))["data"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 201, "ä\u0085"])
async def test_keys_that_are_none(site: Site, key: str) -> None:
    error = await site.error("POST", EDITS, 400, data=form(), headers={"Idempotency-Key": key})
    assert error["param"] == "Idempotency-Key"


@pytest.mark.parametrize(
    ("fields", "param"), [({"n": 2}, "n"), ({"stream": "true"}, "stream"), ({"prompt": None}, "prompt")]
)
async def test_what_a_job_cannot_be_asked_for(site: Site, fields: dict[str, Any], param: str) -> None:
    error = await site.error("POST", EDITS, 400, data=form(**fields))
    assert error["param"] == param
    assert (await site.get(EDITS))["data"] == []


async def test_paging(site: Site, scripted: ScriptedReplica) -> None:
    scripted.at_once = True
    ids = [(await site.ask("POST", EDITS, 202, data=form(seed=seed)))["id"] for seed in range(7)]
    await ended(site, ids[-1])
    found: list[str] = []
    query = {"limit": "3"}
    for size in (3, 3, 1):
        page = await site.get(EDITS, params=query)
        assert len(page["data"]) == size
        found += [job["id"] for job in page["data"]]
        if size == 3:
            assert page["has_more"]
            query["after"] = page["next"]
            if len(found) == 3:  # jobs that come later are not on later pages
                ids_later = (await site.ask("POST", EDITS, 202, data=form()))["id"]
    assert not page["has_more"]
    assert "next" not in page
    assert found == ids[::-1]
    await ended(site, ids_later)
    assert len((await site.get(EDITS, params={"status": "done"}))["data"]) == 8
    assert (await site.get(EDITS, params={"status": "failed"}))["data"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "٣"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"status": "lost"}, "status"),
        ({"after": "nothing of ours"}, "after"),
    ],
)
async def test_pages_that_are_none(site: Site, query: dict[str, str], param: str) -> None:
    assert (await site.error("GET", EDITS, 400, params=query))["param"] == param


async def test_a_deadline_that_passes(site: Site, scripted: ScriptedReplica) -> None:
    job = await site.ask("POST", EDITS, 202, data=form(deadline_ms=4000))  # enough to begin it
    waiting = await site.ask("POST", EDITS, 202, data=form(deadline_ms=20))
    edit = await scripted.edits.get()
    for one in (job, waiting):
        expired = await ended(site, one["id"])
        assert (expired["status"], expired["error"]["code"]) == ("expired", "expired")
        assert "deadline" in expired["error"]["message"]
    async with asyncio.timeout(30):
        await edit.stopped.wait()
    assert edit.cancelled
    assert scripted.edits.empty()


@pytest.mark.parametrize(
    ("error", "code", "param"),
    [
        (MaskError("mask", "is bad"), "invalid_input", "mask"),
        (TemplateNotCachedError("there are no records"), "template_not_cached", "cache"),
    ],
)
async def test_a_job_that_fails(site: Site, scripted: ScriptedReplica, error: Exception, code: str, param: str) -> None:
    job = await site.ask("POST", EDITS, 202, data=form())
    (await scripted.edits.get()).fail(error)
    failed = await ended(site, job["id"])
    assert failed["status"] == "failed"
    assert failed["error"] == {"message": str(error), "type": "edit_error", "param": param, "code": code}
    assert (await site.error("GET", f"{EDITS}/{job['id']}/image", 404))["code"] == "edit_failed"
    assert "image_url" not in failed


@pytest.mark.parametrize("path", ["", "/events", "/image"])
async def test_edits_that_are_not_there(site: Site, path: str) -> None:
    for job_id in ("edit-00000000000000000000000000", "%00", "%ff%fe", "x" * 3000, "%F0%9F%8D%8E"):
        assert (await site.error("GET", f"{EDITS}/{job_id}{path}", 404))["code"] == "not_found"
    assert (await site.error("DELETE", f"{EDITS}/nothing", 404))["code"] == "not_found"


async def test_a_result_whose_file_is_gone(site: Site, scripted: ScriptedReplica, tmp_path: Path) -> None:
    scripted.at_once = True
    job = await ended(site, (await site.ask("POST", EDITS, 202, data=form()))["id"])
    (result,) = [path for path in (tmp_path / "data" / "files").rglob("*") if path.is_file() and is_result(path)]
    result.unlink()
    async with site.session.get(f"{EDITS}/{job['id']}/image") as response:
        assert response.status == 404
        assert response.headers["x-should-retry"] == "false"


def is_result(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 100


class Tenants:
    """A server that needs keys, and the headers of two tenants."""

    def __init__(self, site: Site, ann: str, bob: str) -> None:
        self.site = site
        self.ann: dict[str, Any] = {"headers": {"Authorization": f"Bearer {ann}"}}
        self.bob: dict[str, Any] = {"headers": {"Authorization": f"Bearer {bob}"}}


@pytest_asyncio.fixture
async def tenants(tmp_path: Path) -> AsyncIterator[Tenants]:
    keys = [KeyFile(tmp_path).add(name, datetime.now(UTC), ScryptCost(n=2, r=1, p=1))[0] for name in ("ann", "bob")]
    settings = Settings(data_dir=tmp_path, auth=AuthSettings(required=True))
    async with running_site(settings, ready(ScriptedReplica(at_once=True))) as site:
        yield Tenants(site, *keys)


async def test_another_tenant_sees_nothing(tenants: Tenants) -> None:
    site = tenants.site
    job = await site.ask("POST", EDITS, 202, data=form(), **tenants.ann)
    await ended(site, job["id"], **tenants.ann)
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/image"), ("DELETE", "")):
        assert (await site.error(method, f"{EDITS}/{job['id']}{path}", 404, **tenants.bob))["code"] == "not_found"
        await site.error(method, f"{EDITS}/{job['id']}{path}", 401)
    assert (await site.get(EDITS, **tenants.bob))["data"] == []
    assert len((await site.get(EDITS, **tenants.ann))["data"]) == 1
    assert (await site.get(f"{EDITS}/{job['id']}", **tenants.ann))["status"] == "done"


async def test_tenants_do_not_share_idempotency_keys(tenants: Tenants) -> None:
    ids = set()
    for headers in (tenants.ann["headers"], tenants.bob["headers"]):
        job = await tenants.site.ask(
            "POST", EDITS, 202, data=form(), headers={**headers, "Idempotency-Key": "the same"}
        )
        ids.add(job["id"])
    assert len(ids) == 2


async def test_signed_addresses(tenants: Tenants) -> None:
    site = tenants.site
    job = await ended(site, (await site.ask("POST", EDITS, 202, data=form(seed=1), **tenants.ann))["id"], **tenants.ann)
    other = await ended(site, (await site.ask("POST", EDITS, 202, data=form(), **tenants.bob))["id"], **tenants.bob)
    address = job["image_url"]
    async with aiohttp.ClientSession() as nobody:
        async with nobody.get(address) as response:
            assert response.status == 200
            assert (await response.read()).startswith(b"\x89PNG")
        expires = re.search(r"exp=(\d+)", address)
        assert expires is not None
        tampered = [
            address[:-1] + ("A" if address[-1] != "A" else "B"),
            address.replace(expires[1], str(int(expires[1]) + 1)),
            address.replace(job["id"], other["id"]),
            address.replace("/image", ""),
            address.replace("/image", "/events"),
            address.replace(f"/{job['id']}/image", ""),
        ]
        for changed in tampered:
            async with nobody.get(changed) as response:
                assert response.status == 403
                assert (await response.json())["error"]["code"] == "invalid_signature"
        async with nobody.delete(address) as response:
            assert response.status == 403


async def test_no_edit_is_paid_for_whose_address_cannot_be_told(tenants: Tenants) -> None:
    boundary, body = b"form", b""
    fields = {b"prompt": b"a ball", b"response_format": b"url", b"image": png(picture()), b"mask": mask_png()}
    for name, value in fields.items():
        file = b'; filename="a.png"' if name in (b"image", b"mask") else b""
        body += b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (boundary, name, file, value)
    body += b"--%b--\r\n" % boundary
    head = (
        b"POST /v1/images/edits HTTP/1.1\r\nHost: a\xff\r\nAuthorization: %b\r\nConnection: close\r\n"
        b"Content-Type: multipart/form-data; boundary=%b\r\nContent-Length: %d\r\n\r\n"
    ) % (tenants.ann["headers"]["Authorization"].encode(), boundary, len(body))
    host, port = tenants.site.runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(head + body)
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert (await tenants.site.get(EDITS, **tenants.ann))["data"] == []


async def test_addresses_as_clients_reach_them(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, public_url="https://pictures.example/edit/")
    async with running_site(settings, ready(ScriptedReplica(at_once=True))) as site:
        reply = await site.ask("POST", "/v1/images/edits", data=form(response_format="url"))
    assert reply["data"][0]["url"].startswith("https://pictures.example/edit/v1/edits/edit-")


async def test_jobs_are_taken_up_by_the_next_server(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    first = ScriptedReplica()
    async with running_site(settings, ready(first)) as site:
        jobs = [await site.ask("POST", EDITS, 202, data=form(seed=seed)) for seed in range(3)]
        (await first.edits.get()).succeed()
        await ended(site, jobs[0]["id"])
        edit = await first.edits.get()
        stopping = asyncio.create_task(site.runner.cleanup())
        edit.succeed()
        await stopping
    second = ScriptedReplica(at_once=True)
    async with running_site(settings, ready(second)) as site:
        for seed, job in enumerate(jobs):
            done = await ended(site, job["id"])
            assert (done["status"], done["seed"]) == ("done", seed)
            async with site.session.get(f"{EDITS}/{job['id']}/image") as response:
                assert (await response.read()).startswith(b"\x89PNG")
        assert [job["id"] for job in (await site.get(EDITS))["data"]] == [job["id"] for job in jobs[::-1]]
