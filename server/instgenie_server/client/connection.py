"""Requests to one server: the key, error replies, and what is worth asking again."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from instgenie import __version__
from instgenie.errors import ParameterError
from instgenie_server.client.errors import RemoteError, ReplyError, UnreachableError
from instgenie_server.client.form import MakeForm

CONNECT_SECONDS = 10.0
SILENCE_SECONDS = 60.0  # a stream of events has a comment every 10
MAX_TRIES = 6
MAX_PAUSE_SECONDS = 30.0
BREAK_SECONDS = 1.0
PASSING = frozenset({429, 503})
BREAKS = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)


class Connection:
    """Asks a server. What is refused for a while (429, 503) is asked again when the reply says so, a few times.

    So is a request with an idempotency key whose connection breaks: the server may have taken it, and knows it by that.

    To be used as `async with Connection(...) as server`.

    Raises:
        ParameterError: the address is none, or the key cannot be sent.
    """

    def __init__(self, url: str, api_key: str | None = None, max_tries: int = MAX_TRIES) -> None:
        self.url = checked_url(url)
        headers = {"User-Agent": f"instgenie/{__version__}"}
        if api_key:
            if not re.fullmatch(r"[!-~]+", api_key):
                raise ParameterError("api_key", "has characters that a key never has")
            headers["Authorization"] = f"Bearer {api_key}"
        self._headers, self._max_tries = headers, max_tries
        self._session: aiohttp.ClientSession | None = None
        self._was_reached = False

    async def __aenter__(self) -> Connection:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def json(self, method: str, path: str, form: MakeForm | None = None, **headers: str) -> dict[str, Any]:
        """The JSON object of a reply; an empty one where the reply is.

        Args:
            form: makes the multipart body, once for each try.
            headers: with `_` for `-`.
        Raises:
            ReplyError: an error reply.
            UnreachableError: no answer, or none in JSON.
        """
        body = await self.bytes(method, path, form, **headers)
        try:
            parsed = json.loads(body or b"{}")
        except ValueError as error:
            raise UnreachableError(f"{self.url}{path} did not answer in JSON: is it an instgenie server?") from error
        if not isinstance(parsed, dict):
            raise UnreachableError(f"{self.url}{path} did not answer with an object: is it an instgenie server?")
        return parsed

    async def bytes(self, method: str, path: str, form: MakeForm | None = None, **headers: str) -> bytes:
        """The body of a reply; arguments and errors are those of `json`."""
        for number in range(1, self._max_tries + 1):
            try:
                async with self._asked(method, path, form() if form else None, _named(headers)) as reply:
                    return await reply.read()
            except _PassingError as passing:
                if number == self._max_tries:
                    raise passing.error from passing
                await asyncio.sleep(number * BREAK_SECONDS if passing.pause_seconds is None else passing.pause_seconds)
        raise AssertionError

    async def event_lines(self, path: str, **headers: str) -> AsyncGenerator[str, None]:
        """Lines of a stream of events, without their ends; comments are left out. Errors are those of `json`."""
        try:
            async with self._asked("GET", path, None, _named(headers)) as reply:
                async for line in reply.content:
                    if not line.startswith(b":"):
                        yield line.decode("utf-8", "replace").rstrip("\r\n")
        except _PassingError as passing:
            raise passing.error from passing

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, form: aiohttp.FormData | None, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        assert self._session is not None
        try:
            reply = await self._session.request(method, self.url + path, data=form, headers=headers)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise self._broken(f"cannot be reached: {_words(error)}", error, headers) from error
        self._was_reached = True
        async with reply:
            if reply.status >= 300:
                await _raise(reply)
            try:
                yield reply
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:  # the last one of a line that never ends
                raise self._broken(f"broke off: {_words(error)}", error, headers) from error

    def _broken(self, message: str, error: BaseException, headers: Mapping[str, str]) -> Exception:
        """What to raise of a connection that could not be made, or that broke."""
        unreachable = UnreachableError(f"{self.url} {message}")
        if isinstance(error, TimeoutError) or not isinstance(error, BREAKS):  # a silence is long enough once
            return unreachable
        # A server that is not there at first is told of at once; one that was may be starting again.
        self._was_reached |= not isinstance(error, aiohttp.ClientConnectorError)
        may_repeat = "Idempotency-Key" in headers and self._was_reached
        return _PassingError(unreachable, None) if may_repeat else unreachable


class _PassingError(Exception):
    """A failure that may not come again.

    Attributes:
        error: says it in words.
        pause_seconds: after which the server wants to be asked again, where it was the one to refuse.
    """

    def __init__(self, error: RemoteError, pause_seconds: float | None) -> None:
        super().__init__(str(error))
        self.error, self.pause_seconds = error, pause_seconds


async def _raise(reply: aiohttp.ClientResponse) -> None:
    try:
        told = (await reply.json(content_type=None))["error"]
        message, code = str(told["message"]), told.get("code")
    except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError):
        message, code = f"{reply.url.path}: HTTP {reply.status} {reply.reason}", None
    error = ReplyError(reply.status, message, code)
    if reply.status in PASSING and reply.headers.get("x-should-retry") != "false":
        raise _PassingError(error, _pause_seconds(reply.headers))
    raise error


def _pause_seconds(headers: Mapping[str, str]) -> float:
    """How long the reply asks to wait, within reason."""
    try:
        milliseconds = headers.get("retry-after-ms")
        wanted = float(milliseconds) / 1000 if milliseconds else float(headers.get("retry-after", "1"))
    except ValueError:
        wanted = 1.0
    return min(MAX_PAUSE_SECONDS, wanted) if wanted > 0 else 0.0  # also where it is no number


def checked_url(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        ParameterError: it is none of a server.
    """
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_web = False
    if not is_web or re.search(r"[\s?#@]", url):
        raise ParameterError("server", f"{url[:200]!r} does not look like http://host:port")
    return url.rstrip("/")


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _words(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno and error.os_error.errno > 0:
        return os.strerror(error.os_error.errno)  # asyncio's own words hold the address, and no reason
    return str(error) or type(error).__name__
