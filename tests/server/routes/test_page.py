"""The web page's files: open to everybody, their own kind, nothing beside them."""

from __future__ import annotations

import re

import pytest

from instgenie_server.routes.page import FILES
from tests.server.routes.site import Site


async def test_every_part_that_is_referred_to_is_there(site: Site) -> None:
    async with site.session.get("/") as reply:
        assert (reply.status, reply.content_type) == (200, "text/html")
        page = await reply.text()
    scripts = [path.read_text() for name, path in FILES.items() if name.endswith(".js")]
    parts = set(re.findall(r'(?:src|href)="(page/[^"]+)"', page))
    parts |= {f"page/{name}" for text in scripts for name in re.findall(r'from "\./([^"]+)"', text)}
    parts |= {
        f"page/{name}_{part}.png" for name in re.findall(r'data-sample="(\w+)"', page) for part in ("template", "mask")
    }
    assert len(parts) == 10
    for part in parts:
        async with site.session.get(f"/{part}") as reply:
            assert reply.status == 200, part
    assert not re.search(r"https?://", page + "".join(scripts)), "the page fetches nothing from elsewhere"


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/page/page.css", "/page/sky_mask.png"])
async def test_browsers_are_told_what_to_make_of_it(site: Site, path: str) -> None:
    async with site.session.get(path) as reply:
        policy = reply.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Cache-Control"] == "no-cache"
        etag = reply.headers["ETag"]
    async with site.session.get(path, headers={"If-None-Match": etag}) as reply:
        assert reply.status == 304


@pytest.mark.parametrize("name", ["nothing.js", "..%2Fsettings.py", "%2e%2e%2f%2e%2e%2fREADME.md", "__init__.py", ""])
async def test_nothing_else_is_given(site: Site, name: str) -> None:
    error = await site.error("GET", f"/page/{name}", 404)
    assert error["code"] == "not_found"
