"""`/v1/templates`: recorded before they are edited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from instgenie.errors import ReplicaError, TooManyPinsError
from instgenie.orders import HeldTemplate, Pixels, WarmOrder, WarmReport
from instgenie.replica.local_replica import LocalReplica
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import ScryptCost
from instgenie_server.routes.keys import PIXELS
from instgenie_server.settings import AuthSettings, LimitSettings, Settings
from instgenie_server.template_registry import TemplateRegistry
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
    (key,) = tiny.engine.templates.list("local")[0].keys.values()
    assert await tiny_replica.pin([key]) == 1
    for method, pinned in (("DELETE", False), ("DELETE", False), ("POST", True), ("POST", True)):
        reply = await tiny.ask(method, f"{TEMPLATES}/{template['id']}/pin")
        assert reply["pinned"] is pinned
    await tiny.ask("DELETE", f"{TEMPLATES}/{template['id']}", 204)
    assert await tiny_replica.pin([key]) == 0


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
    await site.get(path)  # whoever asks now is answered after it was pinned
    assert scripted.pinned == {"a", "b", "c"}
    warm.succeed()
    assert (await settled(site, await site.get(path)))["status"] == "warm"


async def test_a_window_that_is_reported_as_it_is_unpinned_stays_unpinned(
    site: Site, scripted: ScriptedReplica
) -> None:
    template = await site.ask("POST", TEMPLATES, 202, data=upload(pin="1"))
    warm = await scripted.warms.get()
    registry = site.engine.templates
    warm.window(1, 2, "a")
    await registry.unpin(registry.list("local")[0])
    assert not (await site.get(f"{TEMPLATES}/{template['id']}"))["pinned"]
    assert scripted.pinned == set()


class SlowToStop(ScriptedReplica):
    """A recording that is cancelled ends when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def warm(self, order: WarmOrder, report: Callable[[WarmReport], None]) -> None:
        try:
            await super().warm(order, report)
        finally:
            await self.go.wait()


async def test_the_registry_ends_after_the_recording() -> None:
    """The replica is closed next."""
    slow = SlowToStop()
    registry = TemplateRegistry(slow)
    running = asyncio.create_task(registry.run())
    await registry.add("local", "content", WarmOrder(id="a", picture=Pixels(1, 1, "RGB", bytes(3))), now=0.0)
    warm = await slow.warms.get()
    running.cancel()
    await warm.stopped.wait()
    for _ in range(9):
        await asyncio.sleep(0)
    assert not running.done()
    slow.go.set()
    await asyncio.wait({running})
    assert running.cancelled()


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
    templates = [await site.ask("POST", TEMPLATES, 202, data=upload(template_seed=seed)) for seed in range(2)]
    (await scripted.warms.get()).end.set_exception(error)
    failed = await settled(site, templates[0])
    assert failed["status"] == "failed"
    assert "bug" not in failed["error"]["message"]
    (await scripted.warms.get()).succeed()
    assert (await settled(site, templates[1]))["status"] == "warm"


async def test_deleting_one_that_waits_and_one_that_is_recorded(site: Site, scripted: ScriptedReplica) -> None:
    first, second, third = [
        await site.ask("POST", TEMPLATES, 202, data=upload(pin="true", template_seed=seed)) for seed in range(3)
    ]
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


async def test_deleting_those_that_wait_makes_room(
    site: Site, scripted: ScriptedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instgenie_server.template_registry.MAX_WAITING", 2)
    await site.ask("POST", TEMPLATES, 202, data=upload())
    running = await scripted.warms.get()
    waiting = [await site.ask("POST", TEMPLATES, 202, data=upload(template_seed=seed)) for seed in (1, 2)]
    await site.error("POST", TEMPLATES, 429, data=upload(template_seed=3))
    for template in waiting:
        await site.ask("DELETE", f"{TEMPLATES}/{template['id']}", 204)
    third = await site.ask("POST", TEMPLATES, 202, data=upload(template_seed=3))
    running.succeed()
    warm = await scripted.warms.get()
    assert warm.order.id == third["id"]
    warm.succeed()


async def test_records_that_templates_share(site: Site, scripted: ScriptedReplica) -> None:
    """They go with the last template that has them, and stay pinned as long as one of these pins them."""
    first, second = [
        await site.ask("POST", TEMPLATES, 202, data=upload(pin="true", max_windows=number)) for number in (1, 2)
    ]
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
    await site.ask("POST", TEMPLATES, 202, data=upload())
    warm = await scripted.warms.get()
    await site.ask("POST", TEMPLATES, 202, data=upload(template_seed=1))
    async with site.session.post(TEMPLATES, data=upload(template_seed=2)) as response:
        assert response.status == 429
        assert response.headers["retry-after"] == "5"
    await site.ask("POST", TEMPLATES, 202, data=upload(template_seed=1))  # that one waits already
    warm.succeed()
    await scripted.warms.get()
    await site.ask("POST", TEMPLATES, 202, data=upload(template_seed=2))


async def recorded(site: Site, scripted: ScriptedReplica, *keys: str, **fields: Any) -> dict[str, Any]:
    """A template with these records."""
    template = await site.ask("POST", TEMPLATES, 202, data=upload(**fields))
    await record_next(scripted, *keys)
    return await settled(site, template)


async def record_next(scripted: ScriptedReplica, *keys: str) -> None:
    """Record the windows of the template that is next."""
    warm = await scripted.warms.get()
    for number, key in enumerate(keys, 1):
        warm.window(number, len(keys), key)
    warm.succeed()


async def test_its_picture_counts_as_those_of_edits_do(tmp_path: Path) -> None:
    """Until it is known whether it is taken."""
    scripted = ScriptedReplica()
    picture_bytes = 64 * 64 * 5 + len(png(picture()))
    settings = Settings(data_dir=tmp_path, limits=LimitSettings(pixel_bytes=picture_bytes + 1000))
    async with running_site(settings, ready(scripted)) as site:
        await recorded(site, scripted, "a")
        assert site.app[PIXELS].held_bytes == 0
        asked, go = asyncio.Event(), asyncio.Event()
        held = scripted.held

        async def slow(keys: Iterable[str]) -> dict[str, HeldTemplate]:
            asked.set()
            await go.wait()
            return await held(keys)

        scripted.held = slow  # type: ignore[method-assign]
        again = asyncio.create_task(site.ask("POST", TEMPLATES, 200, data=upload()))
        await asked.wait()
        assert site.app[PIXELS].held_bytes == picture_bytes
        for path, data in ((TEMPLATES, upload(template_seed=1)), ("/v1/images/edits", form())):
            assert (await site.error("POST", path, 429, data=data))["code"] == "pictures_busy"
        go.set()
        await again
        assert site.app[PIXELS].held_bytes == 0


async def test_the_same_upload_is_the_same_template(site: Site, scripted: ScriptedReplica) -> None:
    warm = await recorded(site, scripted, "a", guidance=3)
    again = await site.ask("POST", TEMPLATES, 200, data=upload(guidance="3.0", max_windows="64"))
    assert again == warm
    pinned = await site.ask("POST", TEMPLATES, 200, data=upload(guidance=3, pin="true"))
    assert pinned == warm | {"pinned": True}
    assert scripted.pinned == {"a"}
    assert (await site.ask("POST", TEMPLATES, 200, data=upload(guidance=3)))["pinned"]
    for data in (upload(guidance=4), upload(png(picture(1)), guidance=3), upload(guidance=3, boxes="[[0,0,5,5]]")):
        assert (await site.ask("POST", TEMPLATES, 202, data=data))["id"] != warm["id"]
    assert len((await site.get(TEMPLATES))["data"]) == 4


@pytest.mark.parametrize("gone", [["a"], ["a", "b"]])
async def test_evicted_and_uploaded_again(site: Site, scripted: ScriptedReplica, gone: list[str]) -> None:
    warm = await recorded(site, scripted, "a", "b")
    assert (warm["status"], warm["num_bytes"], warm["tiers"]) == ("warm", 200, {"host": 200})
    scripted.evict(*gone)
    evicted = await site.get(f"{TEMPLATES}/{warm['id']}")
    left = 2 - len(gone)
    assert (evicted["status"], evicted["windows"], evicted["windows_done"]) == ("evicted", 2, left)
    assert (evicted["num_bytes"], evicted["tiers"]) == (100 * left, {"host": 100 * left})
    assert (await site.get(TEMPLATES))["data"] == [evicted]
    again = await site.ask("POST", TEMPLATES, 202, data=upload())
    assert (again["id"], again["status"]) == (warm["id"], "queued")
    await record_next(scripted, "a", "b")
    assert await settled(site, again) == warm


async def test_evicted_and_pinned(site: Site, scripted: ScriptedReplica) -> None:
    warm = await recorded(site, scripted, "a", "b", steps=3)
    scripted.evict("b")
    pinned = await site.ask("POST", f"{TEMPLATES}/{warm['id']}/pin")
    assert (pinned["status"], pinned["pinned"], scripted.pinned) == ("queued", True, {"a"})
    again = await site.ask("POST", f"{TEMPLATES}/{warm['id']}/pin")  # it waits already
    order = (await scripted.warms.get()).order
    assert (order.id, order.steps) == (warm["id"], 3)
    assert scripted.warms.empty()
    assert again["pinned"]


async def test_failed_and_pinned_or_uploaded_again(site: Site, scripted: ScriptedReplica) -> None:
    template = await site.ask("POST", TEMPLATES, 202, data=upload())
    for is_pinned in (True, False):
        (await scripted.warms.get()).end.set_exception(ReplicaError("out of memory"))
        failed = await settled(site, template)
        assert failed["status"] == "failed"
        if is_pinned:
            template = await site.ask("POST", f"{TEMPLATES}/{failed['id']}/pin")
        else:
            template = await site.ask("POST", TEMPLATES, 202, data=upload())
        assert (template["id"], template["status"], "error" in template) == (failed["id"], "queued", False)
    await record_next(scripted, "a")
    assert (await settled(site, template))["status"] == "warm"
    assert scripted.pinned == {"a"}


async def test_evicted_and_its_picture_was_not_kept(
    site: Site, scripted: ScriptedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instgenie_server.template_registry.MAX_KEPT_BYTES", 64 * 64 * 3)
    first = await recorded(site, scripted, "a", "b")
    second = await recorded(site, scripted, "c", template_seed=1)
    scripted.evict("b", "c")
    error = await site.error("POST", f"{TEMPLATES}/{first['id']}/pin", 409)
    assert error["code"] == "picture_gone"
    assert "upload it again" in error["message"]
    assert not (await site.get(f"{TEMPLATES}/{first['id']}"))["pinned"]
    assert scripted.pinned == set()
    assert (await site.ask("POST", f"{TEMPLATES}/{second['id']}/pin"))["status"] == "queued"


async def test_more_pins_than_there_may_be(site: Site, scripted: ScriptedReplica) -> None:
    template = await recorded(site, scripted, "a")

    async def refuse(_: Iterable[str]) -> int:
        raise TooManyPinsError("2 templates are pinned, 2 may be")

    scripted.pin = refuse  # type: ignore[method-assign, assignment]
    path = f"{TEMPLATES}/{template['id']}"
    for asked, options in ((f"{path}/pin", {}), (TEMPLATES, {"data": upload(pin="true")})):
        error = await site.error("POST", asked, 429, **options)
        assert (error["code"], error["message"]) == (
            "too_many_pins",
            f"{template['id']} cannot be pinned: 2 templates are pinned, 2 may be",
        )
    assert await site.get(path) == template


async def test_a_pinned_one_that_is_evicted_as_it_is_recorded(site: Site, scripted: ScriptedReplica) -> None:
    template = await site.ask("POST", TEMPLATES, 202, data=upload(pin="true"))
    warm = await scripted.warms.get()
    warm.window(1, 1, "a")
    scripted.evict("a")
    warm.succeed()
    failed = await settled(site, template)
    assert (failed["status"], failed["num_bytes"]) == ("failed", 0)
    assert "no room" in failed["error"]["message"]


async def test_more_than_a_tenant_may_have(
    site: Site, scripted: ScriptedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instgenie_server.template_registry.MAX_TEMPLATES_OF_TENANT", 4)
    kept = [await recorded(site, scripted, "a"), await recorded(site, scripted, "b", template_seed=1)]
    evicted = await recorded(site, scripted, "c", template_seed=2)
    scripted.evict("c")
    failed = await site.ask("POST", TEMPLATES, 202, data=upload(template_seed=3))
    (await scripted.warms.get()).end.set_exception(ReplicaError("out of memory"))
    await settled(site, failed)
    for seed, gone in ((4, failed), (5, evicted)):
        kept.append(await recorded(site, scripted, f"{seed}", template_seed=seed))
        await site.error("GET", f"{TEMPLATES}/{gone['id']}", 404)
    async with site.session.post(TEMPLATES, data=upload(template_seed=6)) as response:
        assert (response.status, response.headers["x-should-retry"]) == (429, "false")
        error = (await response.json())["error"]
    assert error["code"] == "too_many_templates"
    assert error["message"] == "you have 4 templates, and 4 are the most: delete some"
    assert (await site.get(TEMPLATES))["data"] == kept[::-1]
    await site.ask("DELETE", f"{TEMPLATES}/{kept[0]['id']}", 204)
    await site.ask("POST", TEMPLATES, 202, data=upload(template_seed=6))


async def test_more_than_the_server_may_have(
    guarded: tuple[Site, dict[str, Any], dict[str, Any]], scripted: ScriptedReplica, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, ann, bob = guarded
    monkeypatch.setattr("instgenie_server.template_registry.MAX_TEMPLATES", 1)
    template = await site.ask("POST", TEMPLATES, 202, data=upload(), **ann)
    error = await site.error("POST", TEMPLATES, 429, data=upload(), **bob)
    assert error["code"] == "too_many_templates"
    (await scripted.warms.get()).end.set_exception(ReplicaError("out of memory"))
    await settled(site, template, **ann)
    await site.ask("POST", TEMPLATES, 202, data=upload(), **bob)
    assert (await site.get(TEMPLATES, **ann))["data"] == []


async def test_records_of_a_cache_service(tmp_path: Path) -> None:
    scripted = ScriptedReplica()
    async with running_site(Settings(data_dir=tmp_path), ready(scripted)) as site:
        assert (await recorded(site, scripted, "a"))["tiers"] == {"service": 100}


async def test_hits(tiny: Site) -> None:
    image = png(picture(102))
    await tiny.ask("POST", "/v1/images/edits", data=form(image))  # before it is a template
    template = await settled(tiny, await tiny.ask("POST", TEMPLATES, 202, data=upload(image)))
    assert template["hits"] == 0
    for cache in ("auto", "off", "only"):
        await tiny.ask("POST", "/v1/images/edits", data=form(image, cache=cache))
    after = await tiny.get(f"{TEMPLATES}/{template['id']}")
    assert after == template | {"hits": 2}
    assert after["tiers"] == {"host": after["num_bytes"]}


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
