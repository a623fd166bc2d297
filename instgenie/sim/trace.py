"""Requests to play, and files of them: JSON lines, as README.md describes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from math import inf
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SimRequest:
    """An edit that somebody asks for.

    Attributes:
        seconds: when, from the beginning of the trace.
        template: a name for what is edited.
        mask_ratio: share of the picture under the mask, 0 to 1.
        steps: that the edit takes, and its template has.
        passes: of the model, each step.

    Raises:
        ValueError: a number that cannot be.
    """

    seconds: float
    template: str
    mask_ratio: float
    steps: int
    passes: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < inf:
            raise ValueError(f"seconds is {self.seconds}, not a finite number from 0")
        if not 0 <= self.mask_ratio <= 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}, not from 0 to 1")
        if self.steps < 1 or self.passes < 1:
            raise ValueError(f"steps are {self.steps} and passes {self.passes}, and have to be 1 at least")


_KINDS = {"seconds": (int, float), "template": str, "mask_ratio": (int, float), "steps": int, "passes": int}


def write_trace(path: Path, requests: Iterable[SimRequest]) -> None:
    """One request a line."""
    with path.open("w", encoding="utf-8") as file:
        for request in requests:
            file.write(json.dumps(asdict(request)) + "\n")


def read_trace(path: Path) -> list[SimRequest]:
    """The requests of a file, by their times. Lines that are empty are passed over.

    Raises:
        ValueError: a line is no request; the message names it.
        OSError: the file cannot be read.
    """
    requests = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                requests.append(_request(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    return sorted(requests, key=lambda request: request.seconds)


def _request(content: object) -> SimRequest:
    if not isinstance(content, dict):
        raise ValueError(f"{content!r} is no object")
    names = [field.name for field in fields(SimRequest)]
    if unknown := set(content) - set(names):
        raise ValueError(f"there is no {', '.join(sorted(map(str, unknown)))}; a request has {', '.join(names)}")
    if missing := set(names[:-1]) - set(content):
        raise ValueError(f"{', '.join(sorted(missing))} is missing")
    for name, value in content.items():
        if not isinstance(value, _KINDS[name]) or isinstance(value, bool):  # type: ignore[arg-type]
            raise ValueError(f"{name} is {value!r}")
    return SimRequest(**content)


def at_rate(requests: Sequence[SimRequest], per_second: float) -> list[SimRequest]:
    """The same requests, their times stretched so that so many come a second on average.

    Raises:
        ValueError: there are none, or all come at once.
    """
    if not requests or requests[-1].seconds <= 0:
        raise ValueError("a trace whose requests come at once has no rate")
    factor = len(requests) / requests[-1].seconds / per_second
    return [SimRequest(r.seconds * factor, r.template, r.mask_ratio, r.steps, r.passes) for r in requests]
