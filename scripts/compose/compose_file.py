"""What a compose file says of the services that are to run."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import compose_spec
import yaml

from compose.interpolation import ComposeError, interpolate

Condition = Literal["service_started", "service_healthy"]

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """A command that succeeds while a container is well, and how long it may take until then."""

    command: tuple[str, ...]
    timeout_seconds: float
    start_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service.

    Attributes:
        entrypoint: None is the image's.
        volumes: paths in the container to the name of a volume, or to a path of the host.
        tmpfs: paths of its own, empty at each start.
        secrets: names to files of the host.
        ports: of the container, that are published.
        replicas: containers of it.
        depends_on: what it waits for; services that are not to run are left out.
    """

    name: str
    image: str
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...]
    environment: Mapping[str, str]
    volumes: Mapping[str, str | Path]
    tmpfs: tuple[str, ...]
    secrets: Mapping[str, Path]
    ports: tuple[int, ...]
    healthcheck: HealthCheck | None
    restarts: bool
    stop_seconds: float
    replicas: int
    depends_on: Mapping[str, Condition]


def read_compose(path: Path, variables: Mapping[str, str], profiles: Collection[str]) -> dict[str, Service]:
    """The services of these profiles and those of none, each after what it depends on.

    Raises:
        ComposeError: the file does not follow the Compose Specification, or waits for what is not to run.
    """
    document = interpolate(yaml.safe_load(path.read_text(encoding="utf-8")), variables)
    for described in document["services"].values():
        deploy = described.get("deploy", {})
        if "replicas" in deploy:
            deploy["replicas"] = int(deploy["replicas"])  # a variable's value is text
    try:
        compose_spec.PyCompose.from_yaml(yaml.safe_dump(document)).validate()
    except ValueError as error:
        raise ComposeError(f"{path}: {error}") from error
    wanted = {
        name: described
        for name, described in document["services"].items()
        if not described.get("profiles") or set(profiles) & set(described["profiles"])
    }
    volumes = {source for service in wanted.values() for source in _volumes(service, path.parent).values()}
    if missing := {name for name in volumes if isinstance(name, str)} - document.get("volumes", {}).keys():
        raise ComposeError(f"{path}: no such volume: {', '.join(sorted(missing))}")
    secrets = {name: path.parent / secret["file"] for name, secret in document.get("secrets", {}).items()}
    services = [_service(name, described, wanted, secrets, path.parent) for name, described in wanted.items()]
    return {service.name: service for service in _in_order(services)}


def seconds_of(duration: str) -> float:
    """`1m30s` -> 90.0.

    Raises:
        ComposeError: not a duration.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    if "".join(number + unit for number, unit in parts) != duration or not parts:
        raise ComposeError(f"not a duration: {duration}")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _service(
    name: str, described: Mapping[str, Any], wanted: Collection[str], secrets: Mapping[str, Path], folder: Path
) -> Service:
    entrypoint = described.get("entrypoint")
    return Service(
        name=name,
        image=described["image"],
        entrypoint=None if entrypoint is None else tuple(entrypoint),
        command=tuple(described.get("command", ())),
        environment={key: str(value) for key, value in described.get("environment", {}).items()},
        volumes=_volumes(described, folder),
        tmpfs=tuple(described.get("tmpfs", ())),
        secrets={secret: secrets[secret] for secret in described.get("secrets", ())},
        ports=tuple(int(port.rpartition(":")[2]) for port in described.get("ports", ())),
        healthcheck=_healthcheck(described.get("healthcheck")),
        restarts=described.get("restart", "no") != "no",
        stop_seconds=seconds_of(described.get("stop_grace_period", "10s")),
        replicas=described.get("deploy", {}).get("replicas", 1),
        depends_on=_depends_on(name, described.get("depends_on", {}), wanted),
    )


def _volumes(described: Mapping[str, Any], folder: Path) -> dict[str, str | Path]:
    pairs = (text.split(":")[:2] for text in described.get("volumes", ()))
    return {target: folder / source if source.startswith((".", "/")) else source for source, target in pairs}


def _healthcheck(described: Mapping[str, Any] | None) -> HealthCheck | None:
    if described is None or described.get("disable"):
        return None
    kind, *words = described["test"]
    if kind not in ("CMD", "CMD-SHELL"):
        raise ComposeError(f"a health check is CMD or CMD-SHELL, not {kind}")
    return HealthCheck(
        command=tuple(words) if kind == "CMD" else ("sh", "-c", *words),
        timeout_seconds=seconds_of(described["timeout"]),
        start_seconds=seconds_of(described["start_period"]),
    )


def _depends_on(name: str, described: Any, wanted: Collection[str]) -> dict[str, Condition]:
    if isinstance(described, list):
        described = {other: {"condition": "service_started"} for other in described}
    missing = [other for other, how in described.items() if other not in wanted and how.get("required", True)]
    if missing:
        raise ComposeError(f"{name} waits for {', '.join(missing)}, of no profile that is to run")
    return {other: how["condition"] for other, how in described.items() if other in wanted}


def _in_order(services: list[Service]) -> list[Service]:
    ordered: list[Service] = []
    waiting = list(services)
    while waiting:
        done = {service.name for service in ordered}
        ready = [service for service in waiting if done.issuperset(service.depends_on)]
        if not ready:
            raise ComposeError(f"wait for each other: {', '.join(service.name for service in waiting)}")
        ordered += ready
        waiting = [service for service in waiting if service not in ready]
    return ordered
