"""What every request passes, through a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from aiohttp import ClientPayloadError, ClientResponse, web
from aiohttp.test_utils import TestClient, TestServer
from structlog.testing import capture_logs

from instgenie.errors import MaskError
from instgenie_server.access.auth import Authenticator
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.key_ring import KeyRing
from instgenie_server.access.key_verifier import KeyVerifier
from instgenie_server.access.keys import ScryptCost
from instgenie_server.access.rate_limit import RateLimiter
from instgenie_server.access.signed_url import UrlSigner
from instgenie_server.api_error import busy
from instgenie_server.app_keys import AUTHENTICATOR, IDENTITY, IN_FLIGHT, METRICS, RATE_LIMITER, REQUEST_ID, SETTINGS
from instgenie_server.in_flight import InFlight
from instgenie_server.logs import AccessLogger
from instgenie_server.metrics import Metrics
from instgenie_server.middleware import install
from instgenie_server.settings import AuthSettings, Settings
from tests.server.logging_state import LogStream, logging_to_stream
from tests.server.manual_clock import ManualClock
from tests.server.test_metrics import Scrape

EXPOSED = Settings(host="0.0.0.0")
MAX_BODY_BYTES = 100


class Service:
    """A server with routes that succeed and fail in every way."""

    def __init__(self, folder: Path, settings: Settings, requests_per_minute: int | None) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.in_flight = InFlight()
        self.key_file = KeyFile(folder)
        self.verifier = KeyVerifier(KeyRing(self.key_file, self.clock), 30, clock=self.clock)
        self.authenticator = Authenticator(settings, self.verifier, UrlSigner(b"secret", 60), self.clock)
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.may_go = asyncio.Event()
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app[AUTHENTICATOR] = self.authenticator
        app[RATE_LIMITER] = RateLimiter(requests_per_minute, self.clock)
        app[METRICS] = self.metrics
        app[SETTINGS] = Settings()
        app[IN_FLIGHT] = self.in_flight
        install(app)
        for path in ("/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/models"):
            app.router.add_get(path, self.whoami)
        app.router.add_get("/v1/edits/{id}/image", self.whoami)
        app.router.add_post("/read", self.read)
        for name in ("invalid", "busy", "bug", "redirect", "forbidden", "stream", "broken_stream", "slow"):
            app.router.add_get(f"/{name}", getattr(self, name))
        inner = web.Application()
        inner.router.add_get("/bug", self.bug)
        app.add_subapp("/inner", inner)
        self.client = TestClient(TestServer(app))

    async def start(self) -> None:
        await self.client.server.start_server(access_log_class=AccessLogger)
        await self.client.start_server()

    async def get(self, path: str, **headers: str) -> ClientResponse:
        return await self.client.get(path, headers=headers, allow_redirects=False)

    async def scrape(self) -> Scrape:
        return await asyncio.to_thread(Scrape, self.metrics)

    async def whoami(self, request: web.Request) -> web.Response:
        identity = request.get(IDENTITY)
        tenant = identity.tenant if identity else None
        return web.json_response({"tenant": tenant, "request_id": request[REQUEST_ID]})

    async def read(self, request: web.Request) -> web.Response:
        return web.json_response({"bytes": len(await request.read())})

    async def invalid(self, _: web.Request) -> web.Response:
        raise MaskError("mask", "selects nothing")

    async def busy(self, _: web.Request) -> web.Response:
        raise busy("too much waits", 2.5)

    async def bug(self, _: web.Request) -> web.Response:
        raise RuntimeError("the secret of the bug")

    async def redirect(self, _: web.Request) -> web.Response:
        raise web.HTTPFound("/docs")

    async def forbidden(self, _: web.Request) -> web.Response:
        raise web.HTTPForbidden(text="not you")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await response.write(b"two")
        return response

    async def broken_stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        raise RuntimeError("the stream broke")

    async def slow(self, _: web.Request) -> web.Response:
        self.entered.set()
        try:
            await self.may_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return web.json_response({})


Serve = Callable[..., Awaitable[Service]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    started: list[Service] = []

    async def make(settings: Settings | None = None, requests_per_minute: int | None = None) -> Service:
        service = Service(tmp_path, settings or Settings(), requests_per_minute)
        started.append(service)
        await service.start()
        return service

    yield make
    for service in started:
        service.may_go.set()
        await service.client.close()
        service.verifier.close()


async def add_key(service: Service, tenant: str) -> str:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    text, _ = await asyncio.to_thread(service.key_file.add, tenant, now, ScryptCost(n=2))
    return f"Bearer {text}"


async def error_of(response: ClientResponse, status: int, type_: str) -> dict[str, str | None]:
    """The error, after looking at its form."""
    assert response.status == status
    assert response.content_type == "application/json"
    assert response.headers["x-request-id"]
    body = await response.json()
    assert set(body) == {"error"}
    error: dict[str, str | None] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert error["type"] == type_
    return error


# Request ids


async def test_sane_request_id_is_kept(serve: Serve) -> None:
    service = await serve()
    response = await service.get("/v1/models", **{"x-request-id": "My_id.1-x"})
    assert response.headers["x-request-id"] == "My_id.1-x"
    assert (await response.json())["request_id"] == "My_id.1-x"


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\tb", "ü", "<script>"])
async def test_other_request_ids_are_replaced(serve: Serve, given: str) -> None:
    service = await serve()
    first = await service.get("/v1/models", **{"x-request-id": given})
    second = await service.get("/v1/models", **{"x-request-id": given})
    ids = {response.headers["x-request-id"] for response in (first, second)}
    assert len(ids) == 2
    assert given not in ids
    assert all(0 < len(one) <= 64 for one in ids)


@pytest.mark.parametrize(
    "path", ["/stream", "/bug", "/invalid", "/gone", "/redirect", "/inner/bug", "/inner/gone", "/forbidden"]
)
async def test_every_reply_has_a_request_id(serve: Serve, path: str) -> None:
    service = await serve()
    response = await service.get(path, **{"x-request-id": "mine"})
    assert response.headers["x-request-id"] == "mine"


# Errors


async def test_errors_of_the_input_name_the_parameter(serve: Serve) -> None:
    response = await (await serve()).get("/invalid")
    error = await error_of(response, 400, "invalid_request_error")
    assert (error["param"], error["message"]) == ("mask", "mask: selects nothing")
    assert response.headers["x-should-retry"] == "false"


async def test_api_errors_are_replied_with_their_headers(serve: Serve) -> None:
    service = await serve()
    response = await service.get("/busy")
    error = await error_of(response, 429, "rate_limit_error")
    assert error["code"] == "overloaded"
    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("3", "2500")
    assert (await service.scrape())("instgenie_rejected_total", reason="overloaded") == 1


async def test_unknown_path(serve: Serve) -> None:
    error = await error_of(await (await serve()).get("/gone"), 404, "invalid_request_error")
    assert (error["code"], error["message"]) == ("not_found", "there is no /gone")


async def test_wrong_method(serve: Serve) -> None:
    service = await serve()
    response = await service.client.put("/read")
    error = await error_of(response, 405, "invalid_request_error")
    assert error["code"] == "method_not_allowed"
    assert "PUT" in (error["message"] or "")
    assert response.headers["Allow"] == "POST"


async def test_body_that_is_too_large(serve: Serve) -> None:
    service = await serve()
    response = await service.client.post("/read", data=b"x" * (MAX_BODY_BYTES + 1))
    error = await error_of(response, 413, "invalid_request_error")
    assert error["code"] == "too_large"
    assert str(MAX_BODY_BYTES) in (error["message"] or "")
    assert (await service.scrape())("instgenie_rejected_total", reason="too_large") == 1


async def test_http_errors_that_handlers_raise(serve: Serve) -> None:
    error = await error_of(await (await serve()).get("/forbidden"), 403, "permission_error")
    assert error["message"] == "not you"


async def test_redirects_are_no_errors(serve: Serve) -> None:
    service = await serve()
    response = await service.get("/redirect")
    assert (response.status, response.headers["Location"]) == (302, "/docs")
    assert (await service.scrape())("instgenie_http_requests_total", route="/redirect", method="GET", status="302") == 1


async def test_bugs_are_logged_and_not_shown(serve: Serve) -> None:
    service = await serve()
    with capture_logs(processors=[]) as logs:
        response = await service.get("/bug")
    error = await error_of(response, 500, "server_error")
    assert (error["message"], error["code"]) == ("internal error", "internal_error")
    failures = [entry for entry in logs if entry["event"] == "request failed"]
    assert [(entry["log_level"], entry["route"], bool(entry["exc_info"])) for entry in failures] == [
        ("error", "/bug", True)
    ]


async def test_stream_that_breaks_is_cut_off(serve: Serve) -> None:
    service = await serve()
    with capture_logs() as logs:
        response = await service.get("/broken_stream")
        assert response.status == 200
        with pytest.raises((ClientPayloadError, ConnectionError)):
            await response.read()
    assert "request failed" in [entry["event"] for entry in logs]
    assert (await service.get("/v1/models")).status == 200


async def test_stream_that_ends_is_whole(serve: Serve) -> None:
    assert await (await (await serve()).get("/stream")).read() == b"onetwo"


async def test_truncated_body_is_no_bug(serve: Serve) -> None:
    service = await serve()
    with capture_logs() as logs:
        reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
        writer.write(b"POST /read HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\nabc")
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert "request failed" not in [entry["event"] for entry in logs]


async def test_body_that_is_not_compressed_as_said_is_the_clients_fault(serve: Serve) -> None:
    service = await serve()
    response = await service.client.post("/read", data=b"no gzip", headers={"Content-Encoding": "gzip"})
    error = await error_of(response, 400, "invalid_request_error")
    assert (error["code"], error["message"]) == (
        "bad_body",
        "the request's body cannot be read: Can not decode content-encoding: gzip",
    )


@pytest.mark.parametrize("host", [b"a\xff", b"127.0.0.1:\xff", "münchen.example".encode()])
async def test_hosts_that_no_address_can_have(serve: Serve, host: bytes) -> None:
    service = await serve(EXPOSED)
    key = (await add_key(service, "alice")).encode()
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nHost: %b\r\nAuthorization: %b\r\nConnection: close\r\n\r\n" % (host, key))
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    assert head.startswith(b"HTTP/1.1 400 ")
    error = json.loads(body)["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", "Host", "bad_host")
    json.dumps(error, ensure_ascii=False).encode()  # what it quotes can be shown


# Access


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/docs", "/openapi.json"])
async def test_open_routes_need_no_key(serve: Serve, path: str) -> None:
    response = await (await serve(EXPOSED)).get(path)
    assert response.status == 200
    assert (await response.json())["tenant"] is None


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/gone", "/inner/bug", "/docs/x"])
async def test_other_routes_need_a_key(serve: Serve, path: str) -> None:
    service = await serve(EXPOSED)
    response = await service.get(path)
    error = await error_of(response, 401, "authentication_error")
    assert error["code"] == "invalid_api_key"
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert (await service.scrape())("instgenie_rejected_total", reason="invalid_api_key") == 1


async def test_keys_let_in_as_their_tenant(serve: Serve) -> None:
    service = await serve(EXPOSED)
    response = await service.get("/v1/models", authorization=await add_key(service, "alice"))
    assert (await response.json())["tenant"] == "alice"
    assert (await service.get("/v1/models", authorization="Bearer ig-00000000." + "a" * 32)).status == 401


async def test_loopback_needs_no_key(serve: Serve) -> None:
    response = await (await serve()).get("/v1/models", authorization="Bearer sk-whatever")
    assert (await response.json())["tenant"] == "local"


async def test_pages_of_others_cannot_use_loopback(serve: Serve) -> None:
    service = await serve()
    error = await error_of(await service.get("/v1/models", origin="https://evil.org"), 403, "permission_error")
    assert error["code"] == "foreign_origin"
    assert (await service.get("/v1/models", host="evil.org")).status == 403


async def test_signed_addresses_need_no_header(serve: Serve) -> None:
    service = await serve(EXPOSED)
    url = service.authenticator.signed_path("/v1/edits/edit-1/image")
    assert (await service.get(url)).status == 200
    assert (await service.client.head(url)).status == 200
    await error_of(await service.get(url.replace("edit-1", "edit-2")), 403, "permission_error")
    service.clock.now += 100
    await error_of(await service.get(url), 403, "permission_error")


async def test_metrics_need_no_key_on_loopback_but_through_a_proxy(serve: Serve) -> None:
    service = await serve(Settings(auth=AuthSettings(required=True)))
    assert (await service.get("/metrics")).status == 200
    assert (await service.get("/metrics", **{"X-Forwarded-For": "192.0.2.1"})).status == 401
    assert (await service.get("/v1/models")).status == 401


async def test_rate_limit_is_by_key(serve: Serve) -> None:
    service = await serve(EXPOSED, requests_per_minute=2)
    alice, bob = await add_key(service, "team"), await add_key(service, "team")
    for _ in range(2):
        assert (await service.get("/v1/models", authorization=alice)).status == 200
    response = await service.get("/v1/models", authorization=alice)
    error = await error_of(response, 429, "rate_limit_error")
    assert (error["code"], response.headers["retry-after"]) == ("rate_limit_exceeded", "60")
    assert (await service.get("/v1/models", authorization=bob)).status == 200
    assert (await service.get("/healthz")).status == 200
    service.clock.now += 60
    assert (await service.get("/v1/models", authorization=alice)).status == 200


# Stopping, and clients that leave


async def test_stopping_server_finishes_and_lets_nobody_in(serve: Serve) -> None:
    service = await serve()
    running = asyncio.create_task(service.get("/slow"))
    await service.entered.wait()
    assert service.in_flight.count == 1
    service.in_flight.drain()
    response = await service.get("/v1/models")
    error = await error_of(response, 503, "server_error")
    assert error["code"] == "unavailable"
    assert response.headers["retry-after"] == "5"
    assert response.headers["Connection"] == "close"
    assert [(await service.get(path)).status for path in ("/healthz", "/readyz", "/metrics")] == [200] * 3
    service.may_go.set()
    assert (await running).status == 200
    await service.in_flight.idle()
    assert (await service.scrape())("instgenie_http_in_flight") == 0


async def test_client_that_leaves_cancels_the_handler(serve: Serve) -> None:
    service = await serve()
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection(service.client.host, service.client.port)
        writer.write(b"GET /slow HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        await service.entered.wait()
        writer.close()
        await writer.wait_closed()
        await service.cancelled.wait()
        await service.in_flight.idle()
    assert (await service.scrape())("instgenie_http_requests_total", route="/slow", method="GET", status="499") == 1
    assert [entry["status"] for entry in logs if entry["event"] == "request"] == [499]
    assert "request failed" not in [entry["event"] for entry in logs]


# Metrics and the access log


async def test_requests_are_counted_by_template(serve: Serve) -> None:
    service = await serve()
    for path in ("/v1/edits/edit-1/image", "/v1/edits/edit-2/image", "/gone", "/gone/too", "/bug"):
        await service.get(path)
    scrape, name = await service.scrape(), "instgenie_http_requests_total"
    assert scrape(name, route="/v1/edits/{id}/image", method="GET", status="200") == 2
    assert scrape(name, route="unmatched", method="GET", status="404") == 2
    assert scrape(name, route="/bug", method="GET", status="500") == 1
    assert "edit-1" not in str(scrape.values)


@pytest.fixture
async def log_stream() -> AsyncIterator[LogStream]:
    with logging_to_stream() as stream:
        yield stream


async def test_access_log_has_one_line_per_request(log_stream: LogStream, serve: Serve) -> None:
    service = await serve(EXPOSED)
    token = await add_key(service, "alice")
    url = service.authenticator.signed_path("/v1/edits/edit-1/image")
    await service.get("/v1/models", authorization=token, **{"x-request-id": "first"})
    await service.get(url)
    await service.get("/invalid", authorization=token)
    await service.get("/gone?secret=1")
    await service.get("/healthz")
    await service.client.close()  # lines follow the replies
    lines = log_stream.lines("request")
    seen = [(line["method"], line["route"], line["status"], line.get("tenant"), line.get("error")) for line in lines]
    assert seen == [
        ("GET", "/v1/models", 200, "alice", None),
        ("GET", "/v1/edits/{id}/image", 200, "", None),
        ("GET", "/invalid", 400, "alice", "invalid_request_error"),
        ("GET", "unmatched", 401, None, "invalid_api_key"),
    ]
    assert lines[0]["request_id"] == "first"
    assert lines[0]["ms"] >= 0
    assert lines[0]["bytes"] > 10
    text = log_stream.getvalue()
    for secret in (token, "edit-1", "sig=", "secret=1"):
        assert secret not in text


async def test_log_lines_of_a_request_carry_its_id(log_stream: LogStream, serve: Serve) -> None:
    service = await serve()
    await service.get("/bug", **{"x-request-id": "mine"})
    (line,) = log_stream.lines("request failed")
    assert (line["request_id"], line["tenant"], line["level"]) == ("mine", "local", "error")
    assert "RuntimeError: the secret of the bug" in line["exception"]


async def test_what_is_no_http_is_answered_and_logged(log_stream: LogStream, serve: Serve) -> None:
    service = await serve()
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    writer.write(b"GET / HTTP/9.9\r\nHost: \x00\r\n\r\n")
    assert b" 400 " in await reader.readline()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    await service.client.close()
    (line,) = log_stream.lines("request")
    assert (line["route"], line["status"]) == ("unmatched", 400)
