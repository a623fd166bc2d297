from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is an extra: scripts/install --ray")

from instgenie_server.ray_engine.cluster import RayEngineError, open_cluster


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, nor will meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None that this machine knows of."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


async def error_of(address: str | None) -> str:
    """Why the cluster cannot be joined, which is told at once."""
    began_at = time.monotonic()
    with pytest.raises(RayEngineError) as caught:
        async with open_cluster(address):
            pass
    assert time.monotonic() - began_at < 60
    return str(caught.value)


async def test_an_address_where_nobody_answers_is_told_at_once(nobody: str) -> None:
    assert await error_of(nobody) == f"engine.ray_address: no Ray cluster answers at {nobody}"


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "/tmp/ray.sock", "somewhere"])
async def test_an_address_has_a_host_and_a_port(address: str) -> None:
    assert await error_of(address) == f"engine.ray_address: must be host:port, not {address!r}"


async def test_a_cluster_that_was_started_here_and_is_gone_is_told_at_once(tmp_path: Path, nobody: str) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"{nobody}\n")
    assert "`ray stop`" in await error_of(None)


async def test_so_is_one_of_the_environment(monkeypatch: pytest.MonkeyPatch, nobody: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", nobody)
    assert f"no Ray cluster answers at {nobody}" in await error_of(None)
