"""The contract, for programs and for people."""

from __future__ import annotations

from aiohttp import web

from instgenie_server.contract_page import contract_page
from instgenie_server.openapi import openapi_document

routes = web.RouteTableDef()


@routes.get("/openapi.json")
async def openapi(_request: web.Request) -> web.Response:
    """OpenAPI 3.1, generated from the schemas."""
    return web.json_response(openapi_document())


@routes.get("/docs")
async def docs(_request: web.Request) -> web.Response:
    """The same as a page, with nothing fetched from elsewhere."""
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
    return web.Response(text=contract_page(openapi_document()), content_type="text/html", headers=headers)
