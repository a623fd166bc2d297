"""What keeps a server from starting is told in one line, with exit code 2."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.processes.requests import mask_png
from tests.server.processes.server_process import SMALL, ServerProcess, instgenie

pytestmark = pytest.mark.timeout(480)

# pydantic is in the extra too, but newer releases of typer bring it.
EXTRA = ("aiohttp", "aiohttp_sse", "uvloop", "prometheus_client", "structlog", "aiosqlite")


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    """One line of error with these parts; log lines may come before it."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    *logged, line = result.stderr.splitlines()
    assert all(entry.startswith("{") for entry in logged), result.stderr
    assert line.startswith("error: ")
    for part in parts:
        assert part in line


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_port_taken(tiny_builtin: Path, tmp_path: Path, taken_port: int) -> None:
    result = instgenie("serve", "--model", tiny_builtin, "--data-dir", tmp_path, "--port", str(taken_port), *SMALL)
    assert_refused(result, f"cannot listen at 127.0.0.1:{taken_port}", "in use")


def test_address_of_nobody(tiny_builtin: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[auth]\nrequired = false\n")
    config = ("--config", tmp_path / "settings.toml")
    result = instgenie(
        "serve", *config, "--model", tiny_builtin, "--data-dir", tmp_path, "--host", "127.0.0.1.invalid", *SMALL
    )
    assert_refused(result, "127.0.0.1.invalid")


def test_broken_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    result = instgenie("serve", "--model", folder, "--data-dir", tmp_path / "data", "--port", "0", *SMALL)
    assert_refused(result, "replica: ", "names no vae")
    assert result.stderr.count("names no vae") == 1


def test_broken_model_in_the_servers_process(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    options = ("--model", tmp_path, "--data-dir", tmp_path, "--port", "0", "--replica", "inline", *SMALL)
    assert_refused(instgenie("serve", *options), "model: ", str(tmp_path))


@pytest.mark.parametrize(
    ("option", "missing"), [("--model", "gone"), ("--trace", "gone/trace.json"), ("--device", "cuda:999")]
)
def test_what_is_missing_is_told_at_once_and_once(
    tiny_builtin: Path, tmp_path: Path, option: str, missing: str
) -> None:
    value = missing if option == "--device" else tmp_path / missing
    options = ("--model", tiny_builtin, "--data-dir", tmp_path, "--port", "0", *SMALL, option, value)
    result = instgenie("serve", *options)
    assert_refused(result, missing.partition("/")[0])
    assert len(result.stderr.splitlines()) == 1, result.stderr


def test_exposed_without_keys(tiny_builtin: Path, tmp_path: Path) -> None:
    result = instgenie("serve", "--model", tiny_builtin, "--data-dir", tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert_refused(result, "instgenie keys add")


def test_folder_of_another_server(tiny_builtin: Path, tmp_path: Path) -> None:
    with ServerProcess(tiny_builtin, tmp_path / "data"):
        result = instgenie("serve", "--model", tiny_builtin, "--data-dir", tmp_path / "data", "--port", "0", *SMALL)
    assert_refused(result, "another server works on")
    assert len(result.stderr.splitlines()) == 1, result.stderr  # nothing was loaded for it


def test_folder_that_cannot_be_written(tiny_builtin: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    folder = tmp_path / "file" / "data"
    result = instgenie("serve", "--model", tiny_builtin, "--data-dir", folder, "--port", "0", *SMALL)
    assert_refused(result, str(tmp_path / "file"))
    assert len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.parametrize("missing", ["aiohttp", "uvloop", "aiosqlite"])
def test_serve_without_the_server_extra(tmp_path: Path, missing: str) -> None:
    result = instgenie("serve", "--data-dir", tmp_path, without=[missing])
    assert_refused(result, "`serve` needs", missing.replace("_", "-"), "pip install -e '.[server]'")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("serve",),
        ("warm", "picture.png"),
        ("templates", "ls"),
        ("edit", "picture.png", "--prompt", "x", "-o", "picture.png", "--mask", "picture.png", "--server", "http://h"),
    ],
)
def test_commands_without_the_server_extra(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "picture.png").write_bytes(mask_png())
    result = instgenie(*(word.replace("picture.png", f"{tmp_path}/picture.png") for word in command), without=EXTRA)
    assert_refused(result, "needs", "pip install -e '.[server]'")


def test_a_broken_installation_is_not_a_missing_extra(tmp_path: Path) -> None:
    """A module of our own that is not there is a bug, and is told as one."""
    result = instgenie("serve", "--data-dir", tmp_path, without=["instgenie_server.serving"])
    assert result.returncode == 1
    assert "Traceback" in result.stderr
