"""The command that starts a replica says all that the replica needs to know."""

from __future__ import annotations

import inspect
import stat
from pathlib import Path

from instgenie.replica.__main__ import ENV_PREFIX, serve
from instgenie_cache.wire.address import Address
from instgenie_server.fleet.found_members import secret_of
from instgenie_server.replica_process.replica_command import Place, ReplicaCommand
from instgenie_server.replica_process.weight_bytes import weight_bytes
from instgenie_server.settings import CacheSettings, EngineSettings

SECRET = "0123456789abcdef"


def command_in(folder: Path, **cache: object) -> ReplicaCommand:
    return ReplicaCommand(
        folder=folder,
        engine=EngineSettings(model=Path("/model"), dtype="bfloat16"),
        cache=CacheSettings.model_validate(cache),
        cache_address=Address(path="/records/cache.sock"),
        host_bytes=5000,
        place=Place("2", device="cuda:1", threads=3, trace=Path("/trace.json")),
        is_alone=False,
        log_level="debug",
    )


def told(command: ReplicaCommand) -> dict[str, str]:
    """The settings, by the names of the replica's options."""
    prefix = f"{ENV_PREFIX}_"
    environment = command.child().environment({"PATH": "/bin"})
    return {name.removeprefix(prefix).lower(): value for name, value in environment.items() if name != "PATH"}


def test_the_replica_knows_all_of_it(tmp_path: Path) -> None:
    command = command_in(tmp_path, codec="int8", drift=0.25, plan="off", policy="lru", device_bytes=7)
    settings = told(command)
    assert settings.keys() <= inspect.signature(serve).parameters.keys()
    expected = {
        "model": "/model",
        "dtype": "bfloat16",
        "device": "cuda:1",
        "threads": "3",
        "trace": "/trace.json",
        "cache": "unix:/records/cache.sock",
        "host_bytes": "5000",
        "device_bytes": "7",
        "codec": "int8",
        "drift": "0.25",
        "plan": "off",
        "policy": "lru",
        "log_level": "debug",
        "log_format": "json",
    }
    assert expected.items() <= settings.items()
    assert command.child().options == ("--listen", f"unix:{tmp_path}/replica-2.sock")
    assert command.child().labels == {"replica": "2"}


def test_what_is_automatic_is_left_to_the_replica(tmp_path: Path) -> None:
    command = ReplicaCommand(
        folder=tmp_path, engine=EngineSettings(), cache=CacheSettings(), cache_address=None, host_bytes=1
    )
    assert not {"model", "device", "threads", "cache", "device_bytes", "cache_secret_file"} & told(command).keys()
    assert not command.child().labels


def test_secrets_are_in_a_file(tmp_path: Path) -> None:
    command = command_in(tmp_path, service="tcp://cache.example:7", secret_name="edits", secret=SECRET)
    settings = told(command)
    assert settings["cache_secret_name"] == "edits"
    file = Path(settings["cache_secret_file"])
    assert file.read_text() == SECRET
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert SECRET not in str(settings)


def test_the_secret_of_a_replica_at_a_port() -> None:
    engine = EngineSettings.model_validate({"replica": "tcp://gpu.example:7", "secret_name": "a", "secret": SECRET})
    secret = secret_of(engine)
    assert secret is not None
    assert (secret.name, secret.secret) == ("a", SECRET.encode())
    assert secret_of(EngineSettings()) is None


def test_weights_of_a_model(tmp_path: Path) -> None:
    for name, num_bytes in (("transformer/a.safetensors", 100), ("vae/b.bin", 20), ("vae/config.json", 3)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(num_bytes))
    assert weight_bytes(tmp_path) == 120
    assert weight_bytes(tmp_path / "gone") == 0
