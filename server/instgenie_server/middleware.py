"""What every request passes, outermost first: an id, its count, errors as JSON, the way out when stopping, access.

Open to everybody are the routes of `OPEN_ROUTES`: probes, which hold nothing, and the page and the contract, which a
browser fetches before anybody could give it a key. `/metrics` needs a key but on loopback; see
`Authenticator.trusts_without_key`. All else needs what `Authenticator.identify` asks for and counts for the rate limit.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import time

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from instgenie.errors import InvalidInputError, ReplicaLostError
from instgenie_server.access.auth import Caller
from instgenie_server.access.remote import counted_as
from instgenie_server.api_error import ApiError, invalid, unavailable
from instgenie_server.app_keys import (
    AUTHENTICATOR,
    ERROR_CODE,
    IDENTITY,
    IN_FLIGHT,
    METRICS,
    RATE_LIMITER,
    REQUEST_ID,
    SETTINGS,
    STARTED,
)
from instgenie_server.intake.field_values import shown
from instgenie_server.logs import CLIENT_LEFT, UNMATCHED, log_request, route_of

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "x-request-id"
METRICS_ROUTE = "/metrics"
PROBE_ROUTES = frozenset({"/healthz", "/readyz"})
OPEN_ROUTES = PROBE_ROUTES | {"/", "/page/{name}", "/docs", "/openapi.json"}
REJECTIONS = frozenset({401, 403, 413, 429, 503})
RETRY_SECONDS = 5.0
MAX_PATH_CHARS = 200  # of an unknown path, in its 404

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


def install(app: web.Application) -> None:
    """Make the application's requests pass all of it. The keys of `app_keys` have to be set before it starts."""
    app.middlewares.extend([give_id, observe, answer_errors, count_in_flight, let_in])
    app.on_response_prepare.append(_before_headers)


@web.middleware
async def give_id(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Take the client's request id if it is a sane one, else make one; log lines of the request carry it."""
    given = request.headers.get(REQUEST_ID_HEADER, "")
    request_id = given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else f"req-{secrets.token_hex(12)}"
    request[REQUEST_ID] = request_id
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        return await handler(request)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count the request and its time; log it if its client left, for then aiohttp does not."""
    started = time.perf_counter()
    status = 500
    try:
        response = await handler(request)
        status = response.status
        return response
    except web.HTTPException as redirect:  # others are answered further in
        status = redirect.status
        raise
    except asyncio.CancelledError:
        status = CLIENT_LEFT
        log_request(request, status, time.perf_counter() - started, 0)
        raise
    finally:
        metrics = request.config_dict[METRICS]
        metrics.observe_request(route_of(request), request.method, status, time.perf_counter() - started)


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever is raised into a JSON reply; once a reply is under way, cut it off instead."""
    headers = {}
    try:
        return await handler(request)
    except web.HTTPException as http_error:
        if http_error.status < 400:
            raise
        error = _from_http(request, http_error)
        headers = {name: value for name, value in http_error.headers.items() if name.lower() == "allow"}
    except ApiError as api_error:
        error = api_error
    except InvalidInputError as input_error:
        error = invalid(str(input_error), input_error.parameter)
    except ReplicaLostError:
        error = unavailable("the replica is being started again", RETRY_SECONDS)
    except web.RequestPayloadError as payload_error:
        reason = " ".join(str(payload_error).split()).removeprefix("400, message: ")
        error = invalid(f"the request's body cannot be read: {reason}", code="bad_body")
    except Exception as other:
        if isinstance(other, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            log.debug("client left")
            return request[STARTED] if STARTED in request else web.Response(status=CLIENT_LEFT)
        log.exception("request failed", route=route_of(request), method=request.method)
        error = ApiError(500, "internal error", "server_error", None, "internal_error")
    if STARTED in request:
        # Ending it in order would tell the client that it has everything.
        log.warning("reply cut off", route=route_of(request), error=error.code)
        if request.transport is not None:
            request.transport.abort()
        return request[STARTED]
    request[ERROR_CODE] = error.code or error.type
    if error.status in REJECTIONS:
        request.config_dict[METRICS].count_rejected(error.code or "other")
    return error_response(error, headers)


def error_response(error: ApiError, headers: dict[str, str] | None = None) -> web.Response:
    """The reply that tells the error."""
    response = web.json_response(error.body(), status=error.status, headers={**error.headers(), **(headers or {})})
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if error.status == 503:
        response.force_close()  # the next try may reach another server
    return response


@web.middleware
async def count_in_flight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count what is being answered; while the server stops, refuse all but probes and metrics."""
    if route_of(request) in PROBE_ROUTES | {METRICS_ROUTE}:
        return await handler(request)
    in_flight = request.config_dict[IN_FLIGHT]
    if in_flight.is_draining:
        raise unavailable("the server is stopping", RETRY_SECONDS)
    metrics = request.config_dict[METRICS]
    try:
        with in_flight.request():
            metrics.set_in_flight(in_flight.count)
            return await handler(request)
    finally:
        metrics.set_in_flight(in_flight.count)


@web.middleware
async def let_in(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find out who asks, by what name, and whether they ask too often."""
    host = request.headers.get("Host", "")
    if not host.isascii():  # aiohttp lets any byte pass; no reply could tell an address at it, once the work was done
        raise invalid(f"Host: {shown(host)} is no host name", "Host", "bad_host")
    route = route_of(request)
    if route in OPEN_ROUTES:
        return await handler(request)
    authenticator = request.config_dict[AUTHENTICATOR]
    caller = caller_of(request)
    if route == METRICS_ROUTE and authenticator.trusts_without_key(caller):
        return await handler(request)
    identity = await authenticator.identify(caller)
    request[IDENTITY] = identity
    request.config_dict[RATE_LIMITER].check(counted_as(identity.key_id, caller.remote))
    # Not only for the handler: what is logged of its failure further out names the tenant too. Each request is a task,
    # so that this ends with it.
    structlog.contextvars.bind_contextvars(tenant=identity.tenant)
    return await handler(request)


def caller_of(request: web.Request) -> Caller:
    """What of the request says who asks."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Caller(request.method, request.path, request.query, headers, request.remote or "")


async def _before_headers(request: web.Request, response: web.StreamResponse) -> None:
    request[STARTED] = response
    _limit_unread(request)
    if REQUEST_ID in request:
        response.headers[REQUEST_ID_HEADER] = request[REQUEST_ID]


def _limit_unread(request: web.Request) -> None:
    """Have the system drop the connection, and what is buffered for it, where its client stops reading."""
    connection = None if request.transport is None else request.transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        milliseconds = round(1000 * request.config_dict[SETTINGS].limits.unread_seconds)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, milliseconds))


def _from_http(request: web.Request, error: web.HTTPException) -> ApiError:
    """aiohttp's errors in our words."""
    message = error.text or error.reason
    if isinstance(error, web.HTTPNotFound) and route_of(request) == UNMATCHED:
        message = f"there is no {request.path[:MAX_PATH_CHARS]}"
    elif isinstance(error, web.HTTPMethodNotAllowed):
        message = f"{error.method} is not allowed here, but {', '.join(sorted(error.allowed_methods))}"
    type_ = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return ApiError(error.status, message, type_, None, _CODES.get(error.status))
