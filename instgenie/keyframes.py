"""Which steps of a template have records, and which of those serve the others."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import msgpack

from instgenie.flow import MAX_STEPS
from instgenie_cache import RecordFormatError

_NOTE_VERSION = 1


def drift_version(drift: float) -> str:
    """What a template's key says of its keyframes."""
    return f"{drift!r}.{_NOTE_VERSION}"


@dataclass(frozen=True, slots=True)
class Keyframes:
    """The steps of a template that were kept while it was recorded. The store files them under their rows: 0, 1, ...

    Attributes:
        kept: steps of the full schedule, growing; the first one is 0. Row r is step kept[r].
        steps: of the full schedule.

    Raises:
        ValueError: not such steps.
    """

    kept: tuple[int, ...]
    steps: int

    def __post_init__(self) -> None:
        kept = self.kept
        is_growing = all(first < second for first, second in pairwise(kept))
        if not (kept and kept[0] == 0 and is_growing and kept[-1] < self.steps):
            raise ValueError(f"{kept} are not the kept ones of {self.steps} steps")

    @classmethod
    def every(cls, steps: int) -> Self:
        """Every step was kept."""
        return cls(tuple(range(steps)), steps)

    @classmethod
    def read(cls, note: bytes, steps: int) -> Self:
        """What `note` made, for a template of so many steps; an empty note says that every step was kept.

        Raises:
            RecordFormatError: it is no such note, or of another version or number of steps.
        """
        if not note:
            return cls.every(steps)
        try:
            version, found_steps, kept = msgpack.unpackb(note, max_array_len=MAX_STEPS)
            if version != _NOTE_VERSION or found_steps != steps:
                raise ValueError(f"version {version}, {found_steps} steps")
            if not (isinstance(kept, list) and all(type(step) is int for step in kept)):
                raise TypeError("what was kept is no list of steps")
            return cls(tuple(kept), steps)
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise RecordFormatError(f"a note that does not say which of {steps} steps were kept: {error!r}") from error

    @property
    def note(self) -> bytes:
        """What the store keeps with the template; empty where every step was kept."""
        if len(self.kept) == self.steps:
            return b""
        packed: bytes = msgpack.packb((_NOTE_VERSION, self.steps, self.kept))
        return packed

    def row_of(self, step: int) -> int:
        """The row of the kept step that is nearest to a step of the schedule; of two, the earlier one.

        In the embedded model's pictures the nearest by step number is as good as the nearest by noise level, and as the
        nearest by distance of K and V; the latest before the step is 1 to 5 dB worse where a third was kept.

        Args:
            step: 0 <= step < steps.
        """
        after = bisect_right(self.kept, step)  # the row of the first kept step beyond this one
        if after < len(self.kept) and self.kept[after] - step < step - self.kept[after - 1]:
            return after
        return after - 1
