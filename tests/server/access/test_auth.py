"""Whose request it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from instgenie_server.access.auth import LOCAL, SIGNED, Authenticator, Caller, Identity, make_authenticator
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.key_ring import KeyRing
from instgenie_server.access.key_verifier import KeyVerifier
from instgenie_server.access.keys import ScryptCost
from instgenie_server.access.signed_url import UrlSigner
from instgenie_server.api_error import ApiError
from instgenie_server.settings import AuthSettings, Settings
from tests.server.manual_clock import ManualClock

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PATH = "/v1/edits/edit-1/image"
Make = Callable[[Settings], Authenticator]


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def make(file: KeyFile, clock: ManualClock) -> Iterator[Make]:
    made: list[Authenticator] = []

    def authenticator(settings: Settings) -> Authenticator:
        verifier = KeyVerifier(KeyRing(file, clock), 30, clock=clock)
        made.append(Authenticator(settings, verifier, UrlSigner(b"secret", 60), clock))
        return made[-1]

    yield authenticator
    for one in made:
        one.close()


def caller(url: str = PATH, method: str = "GET", **headers: str) -> Caller:
    parts = urlsplit(url)
    return Caller(method, parts.path, dict(parse_qsl(parts.query)), headers, "192.0.2.1")


async def refusal(authenticator: Authenticator, asking: Caller) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await authenticator.identify(asking)
    return caught.value


EXPOSED = Settings(host="0.0.0.0")


async def test_keys_are_not_looked_at_on_loopback(make: Make) -> None:
    authenticator = make(Settings())
    assert await authenticator.identify(caller()) == LOCAL
    assert await authenticator.identify(caller(authorization="Bearer sk-whatever")) == LOCAL
    assert await authenticator.identify(caller(host="localhost:8731", origin="http://localhost:8731")) == LOCAL


async def test_pages_of_others_are_refused_on_loopback(make: Make) -> None:
    authenticator = make(Settings())
    assert (await refusal(authenticator, caller(origin="https://evil.org"))).status == 403
    assert (await refusal(authenticator, caller(host="evil.org"))).status == 403


async def test_open_server_may_be_called_by_any_name(make: Make) -> None:
    authenticator = make(Settings(host="0.0.0.0", auth=AuthSettings(required=False)))
    assert await authenticator.identify(caller(host="example.org", origin="https://example.org")) == LOCAL


@pytest.mark.parametrize("settings", [EXPOSED, Settings(auth=AuthSettings(required=True))])
async def test_key_says_the_tenant(make: Make, file: KeyFile, settings: Settings) -> None:
    text, key = await asyncio.to_thread(file.add, "alice", NOW, ScryptCost(n=2))
    authenticator = make(settings)
    for scheme in ("Bearer", "bearer"):
        assert await authenticator.identify(caller(authorization=f"{scheme} {text}")) == Identity("alice", key.id)


@pytest.mark.parametrize("headers", [{}, {"authorization": ""}, {"authorization": "Basic YTpi"}])
async def test_no_key(make: Make, headers: dict[str, str]) -> None:
    error = await refusal(make(EXPOSED), caller(**headers))
    assert (error.status, error.type) == (401, "authentication_error")
    assert "Bearer" in error.message


async def test_wrong_key(make: Make) -> None:
    error = await refusal(make(EXPOSED), caller(authorization="Bearer ig-00000000." + "a" * 32))
    assert error.status == 401


async def test_signed_address_opens_its_path_for_a_while(make: Make, clock: ManualClock) -> None:
    authenticator = make(EXPOSED)
    url = authenticator.signed_path(PATH)
    assert await authenticator.identify(caller(url)) == SIGNED
    assert await authenticator.identify(caller(url, "HEAD")) == SIGNED
    for other in (caller(url, "DELETE"), caller(url.replace("edit-1", "edit-2")), caller(f"{PATH}?sig=x")):
        error = await refusal(authenticator, other)
        assert (error.status, error.code) == (403, "invalid_signature")
    clock.now += 61
    assert (await refusal(authenticator, caller(url))).status == 403


async def test_wrong_key_is_not_mended_by_a_signature(make: Make) -> None:
    authenticator = make(EXPOSED)
    asking = caller(authenticator.signed_path(PATH), authorization="Bearer wrong")
    assert (await refusal(authenticator, asking)).status == 401


def test_what_identities_may_see() -> None:
    assert Identity("alice", "1").may_see("alice")
    assert not Identity("alice", "1").may_see("bob")
    assert SIGNED.may_see("bob")
    assert not LOCAL.may_see("bob")


@pytest.mark.parametrize(
    ("host", "headers", "expected"),
    [
        ("127.0.0.1", {}, True),
        ("127.0.0.1", {"x-forwarded-for": "192.0.2.1"}, False),
        ("127.0.0.1", {"forwarded": "for=192.0.2.1"}, False),
        ("0.0.0.0", {}, False),
    ],
)
def test_metrics_without_a_key(make: Make, host: str, headers: dict[str, str], expected: bool) -> None:
    settings = Settings(host=host, auth=AuthSettings(required=True))
    assert make(settings).trusts_without_key(caller(**headers)) is expected


async def test_addresses_outlive_a_restart_with_a_secret_only(tmp_path: Path) -> None:
    secret = AuthSettings.model_validate({"url_secret": "0123456789abcdef", "required": True})
    for auth, expected in ((secret, True), (AuthSettings(required=True), False)):
        settings = Settings(data_dir=tmp_path, auth=auth)
        before, after = make_authenticator(settings), make_authenticator(settings)
        url = before.signed_path(PATH)
        if expected:
            assert await after.identify(caller(url)) == SIGNED
        else:
            assert (await refusal(after, caller(url))).status == 403
        before.close()
        after.close()
