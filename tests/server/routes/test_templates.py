"""`/v1/templates`: recorded before they are edited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from instgenie.errors import ReplicaError
from instgenie.local_replica import LocalReplica
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import ScryptCost
from instgenie_server.settings import AuthSettings, Settings
from tests.server.intake.pictures import noise, png
from tests.server.routes.scripted_replica import ScriptedReplica
from tests.server.routes.site import Site, form, mask_png, picture, ready, running_site

TEMPLATES = "/v1/templates"


def upload(image: bytes | None = None, **fields: Any) -> aiohttp.FormData:
    """A template's form."""
    data = aiohttp.FormData()
    for name, value in fields.items():
        data.add_field(name, str(value))
    data.add_field("image", png(picture()) if image is None else image, filename="image.png")
    return data


async def settled(site: Site, template: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The template once it is warm or failed."""
    async with asyncio.timeout(30):
        while template["status"] in ("queued", "warming"):
            template = await site.get(f"{TEMPLATES}/{template['id']}", **options)
    return template


async def test_an_edit_of_a_warm_template_is_a_hit(tiny: Site) -> None:
    image = png(picture(100))
    async with tiny.session.post(TEMPLATES, data=upload(image)) as response:
        assert response.status == 202
        template = await response.json()
        assert response.headers["Location"] == f"{TEMPLATES}/{template['id']}"
    assert (template["object"], template["width"], template["height"]) == ("template", 64, 64)
    warm = await settled(tiny, template)
    assert (warm["status"], warm["windows"], warm["windows_done"], warm["pinned"]) == ("warm", 1, 1, False)
    assert warm["num_bytes"] > 0
    async with tiny.session.post("/v1/images/edits", data=form(image, cache="only")) as response:
        assert response.status == 200
        assert response.headers["x-instgenie-cache"] == "hit"
    await tiny.ask("DELETE", f"{TEMPLATES}/{warm['id']}", 204)
    assert (await tiny.error("GET", f"{TEMPLATES}/{warm['id']}", 404))["code"] == "not_found"
    error = await tiny.error("POST", "/v1/images/edits", 404, data=form(image, cache="only"))
    assert error["code"] == "template_not_cached"


async def test_windows_of_boxes(tiny: Site) -> None:
    large = png(noise(200, 200))
    some = await settled(tiny, await tiny.ask("POST", TEMPLATES, 202, data=upload(large, boxes="[[0, 0, 20, 20]]")))
    assert (some["status"], some["windows"]) == ("warm", 1)
    more = await settled(tiny, await tiny.ask("POST", TEMPLATES, 202, data=upload(large, max_windows=3)))
    assert (more["status"], more["windows"], more["windows_done"]) == ("warm", 3, 3)
    listed = (await tiny.get(TEMPLATES))["data"]
    assert listed == [more, some]


async def test_pinning(tiny: Site, tiny_replica: LocalReplica) -> None:
    template = await settled(tiny, await tiny.ask("POST", TEMPLATES, 202, data=upload(png(picture(101)), pin="true")))
    assert template["pinned"]
    (key,) = tiny.engine.templates.list("local")[0].keys
    assert tiny_replica.pin([key]) == 1
    for method, pinned in (("DELETE", False), ("DELETE", False), ("POST", True), ("POST", True)):
        reply = await tiny.ask(method, f"{TEMPLATES}/{template['id']}/pin")
        assert reply["pinned"] is pinned
    await tiny.ask("DELETE", f"{TEMPLATES}/{template['id']}", 204)
    assert tiny_replica.pin([key]) == 0


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"boxes": "["}, "boxes"),
        ({"boxes": "[" * 100_000}, "boxes"),
        ({"boxes": "5"}, "boxes"),
        ({"boxes": '"0"'}, "boxes"),
        ({"boxes": "{}"}, "boxes"),
        ({"boxes": "[[0, 0, 5]]"}, "boxes"),
        ({"boxes": "[[0, 0, 5, 5, 5]]"}, "boxes"),
        ({"boxes": "[[0, 0, 5, NaN]]"}, "boxes"),
        ({"boxes": "[[0, 0, 5, 1e999]]"}, "boxes"),
        ({"boxes": f"[[0, 0, 5, {'9' * 4000}]]"}, "boxes"),
        ({"boxes": "[[5, 0, 5, 5]]"}, "boxes"),
        ({"boxes": "[[0, 0, 65, 5]]"}, "boxes"),
        ({"boxes": "[[-1, 0, 5, 5]]"}, "boxes"),
        ({"boxes": str([[0, 0, 1, 1]] * 257)}, "boxes"),
        ({"max_windows": 0}, "max_windows"),
        ({"steps": "many"}, "steps"),
        ({"pin": "perhaps"}, "pin"),
        ({"prompt": "a red ball"}, "prompt"),
        ({"image": b"no picture"}, "image"),
    ],
)
async def test_what_the_request_is_at_fault_for(site: Site, fields: dict[str, Any], param: str) -> None:
    error = await site.error("POST", TEMPLATES, 400, data=upload(**fields))
    assert error["param"] == param
    assert len(error["message"]) < 300
    assert (await site.get(TEMPLATES))["data"] == []


async def test_files_that_are_missing_or_too_many(site: Site) -> None:
    nothing = aiohttp.FormData({"pin": "true"}, default_to_multipart=True)
    assert (await site.error("POST", TEMPLATES, 400, data=nothing))["param"] == "image"
    both = upload()
    both.add_field("mask", mask_png(), filename="mask.png")
    assert (await site.error("POST", TEMPLATES, 400, data=both))["param"] == "mask"


async def test_window_by_window(site: Site, scripted: ScriptedReplica) -> None:
    fields: dict[str, Any] = {
        "boxes": "[[0,0,5,5]]",
        "steps": 3,
        "guidance": 2.5,
        "template_prompt": "a",
        "template_seed": 4,
    }
    template = await site.ask("POST", TEMPLATES, 202, data=upload(**fields, pin="1"))
    path = f"{TEMPLATES}/{template['id']}"
    warm = await scripted.warms.get()
    order = warm.order
    assert (order.boxes, order.steps, order.guidance) == (((0, 0, 5, 5),), 3, 2.5)
    assert (order.template_prompt, order.template_seed, order.max_windows) == ("a", 4, 64)
    assert (await site.get(path))["status"] == "warming"
    warm.window(1, 3, "a")
    half = await site.get(path)
    assert (half["windows"], half["windows_done"], half["num_bytes"], half["pinned"]) == (3, 1, 100, True)
    assert scripted.pinned == {"a"}
    await site.ask("DELETE", f"{path}/pin")
    assert scripted.pinned == set()
    warm.window(2, 3, "b")
    assert scripted.pinned == set()
    await site.ask("POST", f"{path}/pin")
    warm.window(3, 3, "c")
    assert scripted.pinned == {"a", "b", "c"}
    warm.succeed()
    assert (await settled(site, await site.get(path)))["status"] == "warm"


async def test_no_room_for_the_records(site: Site, scripted: ScriptedReplica) -> None:
    template = await site.ask("POST", TEMPLATES, 202, data=upload())
    warm = await scripted.warms.get()
    warm.window(1, 2, "a")
    warm.window(2, 2, "b", refused=True)
    warm.succeed()
    failed = await settled(site, template)
    assert (failed["status"], failed["windows_done"]) == ("failed", 1)
    assert failed["error"]["code"] == "not_recorded"
    assert "no room" in failed["error"]["message"]
    await site.ask("DELETE", f"{TEMPLATES}/{template['id']}", 204)
    assert scripted.forgotten == ["a"]


@pytest.mark.parametrize("error", [ReplicaError("out of memory"), KeyError("a bug")])
async def test_a_failure_does_not_keep_others_from_being_recorded(
    site: Site, scripted: ScriptedReplica, error: Exception
) -> None:
    templates = [await site.ask("POST", TEMPLATES, 202, data=upload()) for _ in range(2)]
    (await scripted.warms.get()).end.set_exception(error)
    failed = await settled(site, templates[0])
    assert failed["status"] == "failed"
    assert "bug" not in failed["error"]["message"]
    (await scripted.warms.get()).succeed()
    assert (await settled(site, templates[1]))["status"] == "warm"


async def test_deleting_one_that_waits_and_one_that_is_recorded(site: Site, scripted: ScriptedReplica) -> None:
    first, second, third = [await site.ask("POST", TEMPLATES, 202, data=upload(pin="true")) for _ in range(3)]
    warm = await scripted.warms.get()
    warm.window(1, 3, "a")
    await site.ask("DELETE", f"{TEMPLATES}/{second['id']}", 204)
    await site.ask("DELETE", f"{TEMPLATES}/{first['id']}", 204)
    async with asyncio.timeout(30):
        await warm.stopped.wait()
    assert warm.cancelled
    assert scripted.forgotten[0] == "a"
    assert scripted.pinned == set()
    warm = await scripted.warms.get()
    assert warm.order.id == third["id"]
    warm.succeed()
    assert (await settled(site, third))["status"] == "warm"


async def test_records_that_templates_share(site: Site, scripted: ScriptedReplica) -> None:
    """The same picture twice has the same records: they go with the last, and stay pinned as long as one pins them."""
    first, second = [await site.ask("POST", TEMPLATES, 202, data=upload(pin="true")) for _ in range(2)]
    for template in (first, second):
        warm = await scripted.warms.get()
        warm.window(1, 1, "a")
        warm.succeed()
        await settled(site, template)
    await site.ask("DELETE", f"{TEMPLATES}/{first['id']}/pin")
    assert scripted.pinned == {"a"}
    await site.ask("POST", f"{TEMPLATES}/{first['id']}/pin")
    await site.ask("DELETE", f"{TEMPLATES}/{second['id']}/pin")
    await site.ask("DELETE", f"{TEMPLATES}/{first['id']}", 204)
    assert (scripted.forgotten, scripted.pinned) == ([], set())
    await site.ask("DELETE", f"{TEMPLATES}/{second['id']}", 204)
    assert scripted.forgotten == ["a"]


async def test_too_many_at_once(site: Site, scripted: ScriptedReplica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instgenie_server.template_registry.MAX_WAITING_BYTES", 64 * 64 * 3)
    templates = [await site.ask("POST", TEMPLATES, 202, data=upload())]
    warm = await scripted.warms.get()
    templates.append(await site.ask("POST", TEMPLATES, 202, data=upload()))
    async with site.session.post(TEMPLATES, data=upload()) as response:
        assert response.status == 429
        assert response.headers["retry-after"] == "5"
    warm.succeed()
    await scripted.warms.get()
    await site.ask("POST", TEMPLATES, 202, data=upload())


@pytest_asyncio.fixture
async def guarded(
    scripted: ScriptedReplica, tmp_path: Path
) -> AsyncIterator[tuple[Site, dict[str, Any], dict[str, Any]]]:
    keys = [KeyFile(tmp_path).add(name, datetime.now(UTC), ScryptCost(n=2, r=1, p=1))[0] for name in ("ann", "bob")]
    ann, bob = ({"headers": {"Authorization": f"Bearer {key}"}} for key in keys)
    settings = Settings(data_dir=tmp_path, auth=AuthSettings(required=True))
    async with running_site(settings, ready(scripted)) as site:
        yield site, ann, bob
        scripted.let_go()


async def test_another_tenant_sees_nothing(
    guarded: tuple[Site, dict[str, Any], dict[str, Any]],
) -> None:
    site, ann, bob = guarded
    template = await site.ask("POST", TEMPLATES, 202, data=upload(), **ann)
    path = f"{TEMPLATES}/{template['id']}"
    for method, of in (("GET", ""), ("DELETE", ""), ("POST", "/pin"), ("DELETE", "/pin")):
        assert (await site.error(method, path + of, 404, **bob))["code"] == "not_found"
        await site.error(method, path + of, 401)
    assert (await site.get(TEMPLATES, **bob))["data"] == []
    assert len((await site.get(TEMPLATES, **ann))["data"]) == 1
