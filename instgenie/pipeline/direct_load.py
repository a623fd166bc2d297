"""A step that is computed with where its source has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from torch import Tensor

from instgenie.pipeline.step_source import BlockPayloads, StepSource, load_error, read_blocks
from instgenie_cache import CacheError

log = logging.getLogger(__name__)


class DirectLoad:
    """One user's hold of a step that takes no loading, in the terms of `StepLoad`. Release it.

    It is read at once, in the thread that computes: there is nothing to wait for, to copy, or to share with others. So
    it needs no lock, no queue and no buffers.

    Attributes:
        error: why it cannot be read.
        read_ms: what reading took.
    """

    def __init__(self, source: StepSource) -> None:
        """Args:
        source: the load's from now on; it is closed by the release.
        """
        self.error: CacheError | None = None
        self.read_ms = 0.0
        self._source, self._is_open = source, True
        self._first = 0  # of the blocks that were read
        self._payloads: BlockPayloads | None = None

    @property
    def is_valid(self) -> bool:
        """Whether all payloads that it gave were the step's. To be asked before the release, once all was computed."""
        assert self._is_open
        return self._source.is_valid

    def begin(self, blocks: range) -> None:
        """Read these blocks, and no others. Where that fails, `error` says why."""
        assert self._is_open
        if self.error is not None:
            return
        started = time.perf_counter()
        try:
            self._first, self._payloads = blocks.start, read_blocks(self._source, blocks)
        except Exception as failure:  # noqa: BLE001 it is logged
            self.error = load_error(failure)
        self.read_ms += 1000 * (time.perf_counter() - started)

    def __getitem__(self, block: int) -> Tensor:
        """The payload of a block that was read."""
        assert self._payloads is not None
        return self._payloads[block - self._first]

    def computed(self, block: int) -> None:
        """The computation with a block was launched: there is no buffer to give back."""

    def stalls_ms(self) -> Mapping[int, float]:
        """How long the computation waited for the record of each block: for none."""
        return {}

    def release(self) -> None:
        """Compute with none of it any more. A second time it does nothing."""
        if self._is_open:
            self._is_open, self._payloads = False, None
            try:
                self._source.close()
            except Exception:
                log.exception("a source cannot be closed")
