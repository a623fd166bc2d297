"""Between what the numbers are that a replica tells of itself and of what it does.

A replica is broken that tells others. Were they taken in, one number would spoil what the balancer expects of all: so
what says it is refused, and such a replica is given up as one that says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_Range = tuple[float, float]

_USUAL: _Range = (0, 1e15)  # counts, bytes, milliseconds since a start
_STEP_SECONDS: _Range = (0, 1e5)  # a step, or what is done once for an edit: a day
_TOKEN_SECONDS: _Range = (0, 1e3)

_TO_REPLICAS = frozenset({"EditOrder", "Hello", "Output", "Pixels", "WarmOrder"})  # they check those themselves
_RANGES: Mapping[str, _Range] = MappingProxyType(
    {
        "LoadSeconds.byte": (0, 1),
        "LoadSeconds.step": _STEP_SECONDS,
        "ModelCard.batch_edits": (0, 1024),
        "ModelCard.canvas_pixels": (1, 65_536),
        "ModelCard.guidance": (0, 1e3),
        "ModelCard.patch": (1, 1024),
        "ModelCard.steps": (1, 10_000),
        "ModelCard.text_tokens": (0, 65_536),
        "Speed.seconds_per_token": _TOKEN_SECONDS,
        "StepCosts.base_seconds": _STEP_SECONDS,
        "StepCosts.edge_seconds": _STEP_SECONDS,
        "StepReport.steps": (1, 1e15),
        "TokenSeconds.context": _TOKEN_SECONDS,
        "TokenSeconds.pair": _TOKEN_SECONDS,
        "TokenSeconds.row": _TOKEN_SECONDS,
        "Welcome.seconds_per_token": _TOKEN_SECONDS,
    }
)


def range_of(field: str) -> _Range | None:
    """The least and the most that it may be; None where it is nothing that replicas tell, but what they are told.

    Args:
        field: `Kind.name`, of a dataclass.
    """
    kind, _, _ = field.partition(".")
    return None if kind in _TO_REPLICAS else _RANGES.get(field, _USUAL)
