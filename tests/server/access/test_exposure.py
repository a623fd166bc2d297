"""Whether a server may start as it is set."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from instgenie_server.access.exposure import check_exposure, is_loopback, key_required
from instgenie_server.operator_error import ExposureError
from instgenie_server.settings import AuthSettings, Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "example.org", "localhost.evil.org", "", "127.1"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "required", "expected"),
    [
        ("127.0.0.1", None, False),
        ("127.0.0.1", True, True),
        ("0.0.0.0", None, True),
        ("0.0.0.0", False, False),
    ],
)
def test_key_required(host: str, required: bool | None, expected: bool) -> None:
    assert key_required(Settings(host=host, auth=AuthSettings(required=required))) is expected


def test_open_to_the_network_without_keys_is_refused() -> None:
    settings = Settings(host="0.0.0.0")
    with pytest.raises(ExposureError, match=r"0\.0\.0\.0.*instgenie keys add"):
        check_exposure(settings, {})
    check_exposure(settings, {"id": "a key"})


def test_loopback_needs_no_keys() -> None:
    with capture_logs() as logs:
        check_exposure(Settings(), {})
    assert logs == []


@pytest.mark.parametrize(
    "settings",
    [
        Settings(auth=AuthSettings(required=True)),
        Settings(host="0.0.0.0", auth=AuthSettings(required=False)),
    ],
)
def test_what_is_odd_but_meant_is_warned_of(settings: Settings) -> None:
    with capture_logs() as logs:
        check_exposure(settings, {})
    assert [entry["log_level"] for entry in logs] == ["warning"]
