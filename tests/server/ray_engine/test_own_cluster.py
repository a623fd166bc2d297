"""`instgenie serve --engine ray` where there is no cluster: it starts one for itself."""

from __future__ import annotations

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.server.processes.listeners import listeners_below
from tests.server.processes.server_process import ServerProcess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is an extra: scripts/install --ray"),
]

RAY_PROCESSES = 4  # its head, the daemon of the machine, an actor, and what that runs


def test_nothing_of_it_listens_beyond_this_machine(
    tiny_builtin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with ServerProcess(tiny_builtin, tmp_path, "--engine", "ray", "--replicas", "1", own_cache=True) as server:
        server.until("serving at")
        listeners = listeners_below(server.process.pid)
        assert len(listeners) >= RAY_PROCESSES, server.log()
        beyond = {number: hosts for number, hosts in listeners.items() if not all(host.is_loopback for host in hosts)}
        assert not beyond, server.log()
        server.signal(signal.SIGTERM)
        assert server.end() == 0, server.log()
    assert "listens beyond this machine" not in server.log()
