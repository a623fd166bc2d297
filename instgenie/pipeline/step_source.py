"""Where the records of a step are read from, as the loader sees it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from instgenie_cache import CacheError, TierName

log = logging.getLogger(__name__)


class StepLostError(CacheError):
    """A record that a step needs is not there any more."""


def load_error(failure: Exception) -> CacheError:
    """What a load failed with, without the frames that it went through, which have the load: it keeps the error.

    Whatever a source does must not end the thread that reads it: what is no `CacheError` is logged, and becomes one.
    """
    if isinstance(failure, CacheError):
        return failure.with_traceback(None)
    log.error("records cannot be loaded", exc_info=failure)
    return CacheError(f"a record cannot be loaded: {type(failure).__name__}: {failure}")


class BlockPayloads(Protocol):
    """Payloads of some blocks in a row, [record_bytes] uint8 in host memory, such as a list of them."""

    def __len__(self) -> int:
        """How many blocks."""
        ...

    def __getitem__(self, place: int, /) -> Tensor:
        """That of a block, by its place from 0."""
        ...


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

    @property
    def owner(self) -> object:
        """By whose right it is read. What sources of one owner give stays for as long as one of them is open."""
        ...

    @property
    def is_valid(self) -> bool:
        """Whether that right was not lost: else what was read may have been overwritten since. Never raises."""
        ...

    @property
    def is_own(self) -> bool:
        """Whether all that was read so far is in memory of its own, which stays as it is once the source is closed."""
        ...

    def read(self, first: int, stop: int) -> BlockPayloads | None:
        """Payloads of blocks first..stop-1; None where one is lost.

        The memory stays as it is until the source is closed, unless the right to it is lost.

        Raises:
            CacheError: they cannot be read, or are not of the model's form.
        """
        ...

    def close(self) -> None:
        """Nobody reads its memory any more."""
        ...


def read_blocks(source: StepSource, blocks: range) -> BlockPayloads:
    """What the source gives of these blocks.

    Raises:
        StepLostError: a record is lost.
        ValueError: it does not give as many.
        Exception: whatever reading raises.
    """
    payloads = source.read(blocks.start, blocks.stop)
    if payloads is None:
        raise StepLostError(f"a record of blocks {blocks.start} to {blocks.stop - 1} is lost")
    if len(payloads) != len(blocks):
        raise ValueError(f"{len(payloads)} payloads of {len(blocks)} blocks")
    return payloads


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded at a time, and how long that took."""

    tier: TierName
    num_bytes: int
    ms: float
