"""Many templates: what is not wanted is not sent, and what cannot be used does not stop the others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from instgenie_server.client import ReplyError, TemplateSettings, Warmed, WarmItem, warm_all, warm_template
from tests.server.client.conftest import Connect


class Script:
    """A server whose templates are in that state at once."""

    def __init__(self, status: str = "warm", **reply: Any) -> None:
        self.template = {"id": "template-1", "status": status, **reply}
        self.images: list[bytes] = []

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        self.images.append((await request.post())["image"].file.read())  # type: ignore[union-attr]
        return web.json_response(self.template)


async def test_each_file_is_read_once_in_a_thread_and_sent_where_it_is_wanted(connect: Connect, tmp_path: Path) -> None:
    items = [WarmItem(tmp_path / name, TemplateSettings()) for name in ("a", "b", "gone")]
    for item in items[:2]:
        item.path.write_bytes(item.path.name.encode())
    asked: list[tuple[str, bytes]] = []

    def is_wanted(item: WarmItem, image: bytes) -> bool:
        assert threading.current_thread() is not threading.main_thread()
        asked.append((item.path.name, image))
        return item is items[1]

    script, came = Script(), list[Warmed]()
    await warm_all(await connect(script), items, came.append, is_wanted=is_wanted)
    assert sorted(asked) == [("a", b"a"), ("b", b"b")]
    assert script.images == [b"b"]
    by_item = {warmed.item: warmed for warmed in came}
    assert by_item[items[0]] == Warmed(items[0])
    assert by_item[items[1]].template == script.template
    assert "cannot be read" in (by_item[items[2]].error or "")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (Script("evicted"), "the template is evicted: has the cache no room for it?"),
        (Script("failed", error={"message": "out of memory", "code": "not_recorded"}), "out of memory"),
    ],
)
async def test_templates_that_do_not_become_warm(connect: Connect, script: Script, message: str) -> None:
    with pytest.raises(ReplyError) as caught:
        await warm_template(await connect(script), b"image", TemplateSettings())
    assert str(caught.value) == message
