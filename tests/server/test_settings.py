"""What single settings accept."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from instgenie_server.settings import EngineSettings, Settings


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert Settings().data_dir == tmp_path / "home/.local/share/instgenie"
    assert Settings(data_dir=Path("~/x")).data_dir == tmp_path / "home/x"
    assert Settings(data_dir=Path("x")).data_dir == tmp_path / "x"


def test_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTGENIE_PORT", "1")
    assert Settings().port == 8731


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "0.0.0.0"), ("[::1]", "::1"), ("::", "::"), ("LocalHost", "LocalHost"), ("a.example", "a.example")],
)
def test_hosts(host: str, expected: str) -> None:
    assert Settings(host=host).host == expected


@pytest.mark.parametrize("host", ["", " ", "a b", "127.0.0.1:8731", "http://x", "-x", "[::1", "*"])
def test_hosts_that_are_refused(host: str) -> None:
    with pytest.raises(ValidationError, match="host"):
        Settings(host=host)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://example.org/", "https://example.org"),
        ("http://example.org:8080/edit", "http://example.org:8080/edit"),
        ("https://[::1]:8731", "https://[::1]:8731"),
    ],
)
def test_public_urls(url: str, expected: str) -> None:
    assert Settings(public_url=url).public_url == expected


@pytest.mark.parametrize(
    "url", ["", "example.org", "ftp://x", "https://", "https://x?a=1", "https://x#a", "https://me:pw@x", "https://x:y"]
)
def test_public_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="public_url"):
        Settings(public_url=url)


def test_records_are_kept_below_the_cache_home(cache_home: Path) -> None:
    assert Settings().cache.folder == cache_home / "instgenie" / "records"


@pytest.mark.parametrize("replica", ["own", "inline", "unix:/run/replica.sock", "unix:/run/a.sock, unix:/run/b.sock"])
def test_replicas(replica: str) -> None:
    assert EngineSettings(replica=replica).replica == replica


def test_a_replica_at_a_port_needs_a_secret() -> None:
    secret = {"secret_name": "edits", "secret": "0123456789abcdef"}
    assert EngineSettings.model_validate({"replica": "tcp://gpu.example:7", **secret}).replica == "tcp://gpu.example:7"
    with pytest.raises(ValidationError, match=r"engine\.secret"):
        EngineSettings(replica="tcp://gpu.example:7")


@pytest.mark.parametrize("replica", ["", "none", "child", "replica.sock", "http://gpu.example:7", "unix:/a,own"])
def test_replicas_that_are_refused(replica: str) -> None:
    with pytest.raises(ValidationError, match="must be own, inline or an address"):
        EngineSettings(replica=replica)


@pytest.mark.parametrize("devices", ["cuda:0, cpu", ["cuda:0", "cpu"], ("cuda:0", "cpu")])
def test_devices(devices: object) -> None:
    assert EngineSettings.model_validate({"devices": devices}).devices == ("cuda:0", "cpu")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": "gpu"}, "must be cpu, cuda or cuda:0"),
        ({"devices": ""}, "must be cpu, cuda or cuda:0"),
        ({"devices": []}, "at least 1"),
        ({"devices": "cpu,cuda:0", "replica": "inline"}, "must be one"),
        ({"replicas": 0}, "greater than or equal to 1"),
        ({"replicas": 65}, "less than or equal to 64"),
        ({"replicas": 1, "devices": "cuda:0,cuda:1"}, "must be at least 2"),
        ({"replicas": 2, "replica": "inline"}, "must be 1"),
        ({"replicas": 2, "replica": "unix:/a"}, "there are as many as those"),
        ({"replica": "unix:/a,unix:/a"}, "one address twice, as unix:/a and as unix:/a"),
        ({"replica": "unix:/a,/b/../a"}, "one address twice, as unix:/a and as /b/../a"),
        (
            {"replica": "tcp://localhost:1,127.0.0.1:1", "secret": "0123456789abcdef", "secret_name": "a"},
            "one address twice",
        ),
        ({"replica": "inline", "kind": "ray"}, "must be own"),
    ],
)
def test_replicas_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EngineSettings.model_validate(settings)
