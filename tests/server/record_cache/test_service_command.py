"""The command that starts a cache service says all that the service needs to know."""

from __future__ import annotations

from pathlib import Path

from instgenie_cache.service.service_settings_sources import load_settings
from instgenie_server.record_cache.service_command import ServiceCommand

COMMAND = ServiceCommand(
    folder=Path("/records"),
    socket=Path("/records/cache.sock"),
    host_bytes=3 << 20,
    disk_bytes=5000,
    policy="lru",
    log_level="debug",
)


def test_the_service_takes_it() -> None:
    settings = load_settings(environ=COMMAND.child().environment({"PATH": "/bin"}))
    assert (settings.folder, settings.socket) == (COMMAND.folder, COMMAND.socket)
    assert (settings.host_bytes, settings.disk_bytes) == (3 << 20, 5000)
    assert (settings.host_policy, settings.disk_policy) == ("lru", "lru")
    assert (settings.log_level, settings.log_format) == ("debug", "json")


def test_settings_of_the_server_are_not_handed_on() -> None:
    """The service would refuse them, and secrets are among them."""
    given = {
        "PATH": "/bin",
        "INSTGENIE_CACHE__FOLDER": "/x",
        "INSTGENIE_AUTH__URL_SECRET": "s",
        "INSTGENIE_CACHE_TCP": "y",
    }
    environment = COMMAND.child().environment(given)
    assert environment["PATH"] == "/bin"
    assert not given.keys() - {"PATH"} & environment.keys()
