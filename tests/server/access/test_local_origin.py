"""Other people's web pages cannot use a server that trusts this machine."""

from __future__ import annotations

import pytest

from instgenie_server.access.local_origin import foreign_origin


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8731", None),
        ("localhost:9000", "http://localhost:9000"),
        ("[::1]:8731", "http://[::1]:8731"),
        (None, None),
        ("edit.example.org", "https://edit.example.org"),
    ],
)
def test_own(host: str | None, origin: str | None) -> None:
    assert foreign_origin(host, origin, "https://edit.example.org/base") is None


@pytest.mark.parametrize(
    ("host", "origin", "code"),
    [
        ("rebound.evil.org:8731", None, "foreign_host"),
        ("127.0.0.1:8731", "https://evil.org", "foreign_origin"),
        ("127.0.0.1:8731", "null", "foreign_origin"),
        ("127.0.0.1:8731", "http://[", "foreign_origin"),
        ("127.0.0.1.evil.org", None, "foreign_host"),
        ("edit.example.org.evil.org", None, "foreign_host"),
    ],
)
def test_foreign(host: str, origin: str | None, code: str) -> None:
    error = foreign_origin(host, origin, "https://edit.example.org/base")
    assert error is not None
    assert (error.status, error.code) == (403, code)
