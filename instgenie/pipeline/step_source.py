"""Where the records of a step are read from, as the loader sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from instgenie_cache import CacheError, TierName


class StepLostError(CacheError):
    """A record that a step needs is not there any more."""


class StepSource(Protocol):
    """Where the records of one step of one template are."""

    @property
    def tier(self) -> TierName:
        """The tier that they are read from."""
        ...

    @property
    def is_timed(self) -> bool:
        """Whether what a read takes shows what the tier costs."""
        ...

    def read(self, first: int, stop: int) -> Sequence[Tensor] | None:
        """Payloads of blocks first..stop-1, [record_bytes] uint8 in host memory; None where one is lost.

        The memory stays as it is until the source is closed.

        Raises:
            CacheError: they cannot be read, or are not of the model's form.
        """
        ...

    def close(self) -> None:
        """Nobody reads its memory any more."""
        ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded at a time, and how long that took."""

    tier: TierName
    num_bytes: int
    ms: float
