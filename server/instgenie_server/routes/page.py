"""The web page and what it is made of. It fetches nothing from elsewhere, and no other page can show it in a frame."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

import instgenie

routes = web.RouteTableDef()

PAGE = Path(__file__).parents[1] / "page"
SAMPLES = Path(instgenie.__file__).parent / "builtin" / "samples"
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}
# Files by name: what a request names is looked up here, and never becomes a path.
FILES = {path.name: path for folder in (PAGE, SAMPLES) for path in folder.iterdir() if path.suffix in KINDS}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",  # asked for each time, sent when it changed
}


@routes.get("/")
async def page(_request: web.Request) -> web.FileResponse:
    """The page itself."""
    return _file("index.html")


@routes.get("/page/{name}")
async def part(request: web.Request) -> web.FileResponse:
    """A script, the style sheet, or a sample to try."""
    name = request.match_info["name"]
    if name not in FILES:
        raise web.HTTPNotFound(text=f"the page has no part {name[:100]!r}")
    return _file(name)


def _file(name: str) -> web.FileResponse:
    path = FILES[name]
    return web.FileResponse(path, headers={**HEADERS, "Content-Type": KINDS[path.suffix]})
