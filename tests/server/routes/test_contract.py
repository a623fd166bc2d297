"""The contract says what the server does, and its page needs nobody else."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from instgenie_server.intake import EditForm, JobForm, read_edit_form
from instgenie_server.intake.fidelity_choice import FidelityChoice
from instgenie_server.openapi import OPERATIONS
from tests.server.routes.scripted_replica import ScriptedReplica
from tests.server.routes.site import Site, form

BESIDES = {"/", "/page/{name}", "/docs", "/openapi.json"}  # for people, and the document itself


async def test_the_document_is_valid(site: Site) -> None:
    document = await site.get("/openapi.json")
    validate(document)
    assert document["openapi"].startswith("3.1")


async def test_every_route_is_in_it(site: Site) -> None:
    routes = {
        (route.method.lower(), route.resource.canonical)
        for route in site.app.router.routes()
        if route.resource is not None and route.method != "HEAD" and route.resource.canonical not in BESIDES
    }
    assert {(operation.method, operation.path) for operation in OPERATIONS} == routes


async def test_operations_have_names_of_their_own(site: Site) -> None:
    document = await site.get("/openapi.json")
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))


def fields_of(document: dict[str, Any], path: str) -> dict[str, Any]:
    body = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields: dict[str, Any] = body["properties"]
    assert "image" in body["required"]
    return fields


async def test_fields_of_forms(site: Site) -> None:
    document = await site.get("/openapi.json")
    edit, job = fields_of(document, "/v1/images/edits"), fields_of(document, "/v1/edits")
    template = fields_of(document, "/v1/templates")
    assert {"image", "mask", "prompt", "n", "seed", "cache", "deadline_ms", "stream"} <= edit.keys()
    assert (job["n"]["const"], job["stream"]["const"]) == (1, False)
    assert edit["image"]["format"] == "binary"
    assert "mask_mode" in edit["mask"]["description"]
    assert "mask" not in template
    assert template["boxes"]["type"] == "string"
    assert template["boxes"]["contentSchema"]["items"]["minItems"] == 4
    for fields in (edit, job, template):
        assert "null" not in str(fields)


async def test_fidelity_is_described_as_it_is_taken(site: Site) -> None:
    """A mode's name, an object as JSON, or parts; each example and each part is taken by the form."""
    document = await site.get("/openapi.json")
    for path, kind in (("/v1/images/edits", EditForm), ("/v1/edits", JobForm)):
        fields = fields_of(document, path)
        asked = fields["fidelity"]
        schema = {"anyOf": asked["anyOf"], "components": document["components"]}
        check = OAS31Validator(schema).is_valid
        good: list[Any] = ["auto", "exact", "auto:40", "auto:35.5", "auto:100", {"mode": "auto", "psnr_db": 40}, {}]
        bad: list[Any] = ["best", "auto:", "auto:9", "auto:101", {"mode": "best"}, {"psnr_db": 9}, {"ssim": 1}, 3]
        assert [check(value) for value in good + bad] == [True] * len(good) + [False] * len(bad)
        for example in asked["examples"]:
            assert check(example)
            part = example if isinstance(example, str) else json.dumps(example)
            assert read_edit_form({"prompt": "a cat", "fidelity": part}, [], kind).fidelity is not None
        parts = {name: part for name, part in fields.items() if name.startswith("fidelity[")}
        assert parts.keys() == {"fidelity[mode]", "fidelity[psnr_db]"}
        assert parts["fidelity[mode]"]["enum"] == ["auto", "exact"]
        given = {"fidelity[mode]": "exact", "fidelity[psnr_db]": str(parts["fidelity[psnr_db]"]["maximum"])}
        assert read_edit_form({"prompt": "a cat", **given}, [], kind).fidelity == FidelityChoice(
            mode="exact", psnr_db=100
        )


async def test_replies_are_as_it_says(site: Site, scripted: ScriptedReplica) -> None:
    """Each status that was seen is one that the document names."""
    scripted.at_once = True
    document = await site.get("/openapi.json")
    job = await site.ask("POST", "/v1/edits", 202, data=form())
    asked = [
        ("get", "/v1/models", "/v1/models"),
        ("get", "/v1/models/{id}", "/v1/models/none"),
        ("get", "/v1/edits", "/v1/edits?limit=0"),
        ("get", "/v1/edits/{id}", f"/v1/edits/{job['id']}"),
        ("get", "/v1/edits/{id}/events", f"/v1/edits/{job['id']}/events"),
        ("get", "/v1/edits/{id}/image", f"/v1/edits/{job['id']}/image"),
        ("delete", "/v1/edits/{id}", "/v1/edits/none"),
        ("post", "/v1/templates", "/v1/templates"),
        ("delete", "/v1/templates/{id}", "/v1/templates/none"),
        ("post", "/sdapi/v1/img2img", "/sdapi/v1/img2img"),
        ("get", "/sdapi/v1/progress", "/sdapi/v1/progress"),
        ("get", "/healthz", "/healthz"),
        ("get", "/readyz", "/readyz"),
        ("get", "/metrics", "/metrics"),
    ]
    for method, path, address in asked:
        async with site.session.request(method, address) as response:
            told = document["paths"][path][method]["responses"][str(response.status)]
            kinds = list(told["content"])
            assert response.content_type in kinds or kinds == ["image/*"]


class _References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [value or "" for name, value in attrs if name in ("href", "src", "action", "srcset", "data")]


async def test_the_page_needs_nobody_else(site: Site) -> None:
    async with site.session.get("/docs") as response:
        page = await response.text()
        assert response.content_type == "text/html"
        assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
    references = _References()
    references.feed(page)
    assert references.found == ["openapi.json"]
    assert not references.tags & {"script", "link", "img", "iframe", "object"}
    assert not re.search(r"https?:|@import|url\(|None", page)
    assert "auto | exact or string such as ^auto:" in page
    assert "or an object of mode, psnr_db" in page
    assert "x-instgenie-fidelity" in page
    for operation in OPERATIONS:
        assert operation.path in page
    for field in ("partial_images", "inpainting_mask_invert", "max_windows", "Idempotency-Key", "Last-Event-ID"):
        assert f"<code>{field}</code>" in page


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_it_is_open_to_everybody(site: Site, path: str) -> None:
    async with site.session.get(path, headers={"Authorization": "Bearer wrong"}) as response:
        assert response.status == 200


async def test_addresses_that_are_not_there(site: Site) -> None:
    for path in ("/v1/nothing", "/v1/edits/", "/v2", "/.git/config", "/v1/edits/a/b/c"):
        error = await site.error("GET", path, 404)
        assert (error["code"], error["type"]) == ("not_found", "invalid_request_error")
    assert len((await site.error("GET", "/" + "x" * 5000, 404))["message"]) < 300


async def test_methods_that_are_not_there(site: Site) -> None:
    for method, path, allowed in (
        ("PUT", "/v1/edits", {"GET", "HEAD", "POST"}),
        ("GET", "/v1/images/edits", {"POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
        ("GET", "/v1/templates/a/pin", {"POST", "DELETE"}),
    ):
        async with site.session.request(method, path) as response:
            assert response.status == 405
            assert set(response.headers["Allow"].split(",")) == allowed
            assert (await response.json())["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/edits", "/v1/templates"])
async def test_bodies_that_are_no_forms(site: Site, path: str) -> None:
    for options in ({"json": {"prompt": "a"}}, {"data": b""}, {"data": {"prompt": "urlencoded"}}):
        error = await site.error("POST", path, 400, **options)
        assert "multipart/form-data" in error["message"]
