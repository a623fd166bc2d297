"""An edit's part in one step of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie.correction import Refresh
from instgenie.edit_state import EditState
from instgenie.models.segment import ContextSource, KeyValue
from instgenie.template_reader import OpenStep
from instgenie_cache import CacheError


class WatchedContext:
    """A context that remembers what it failed with: in a batch, whose it was would not be known."""

    def __init__(self, source: ContextSource) -> None:
        self._source = source
        self.error: CacheError | None = None

    def context(self, block: int) -> KeyValue:
        """See `ContextSource`.

        Raises:
            CacheError: the source cannot give it.
        """
        try:
            return self._source.context(block)
        except CacheError as error:
            self.error = error
            raise


@dataclass(frozen=True, slots=True, eq=False)
class EditStep:
    """An edit's part in a step that is about to be computed, from `RunningEdit.open_step`.

    Attributes:
        before: the edit's state, which a step replaces the tensors of, and does not write to.
        source: the template's context, which its step is computed with, or corrects; None where it needs none.
        refresh: where it computes all tokens, to see what that changes in the context.
        full_blocks: the full prefix.
        opened: where its records are read; None where they are not, or come from a lane.
    """

    before: EditState
    source: WatchedContext | None
    full_blocks: int = 0
    opened: OpenStep | None = None
    refresh: Refresh | None = None

    @property
    def context(self) -> WatchedContext | None:
        """Of the tokens that it does not compute; None where it computes all of them."""
        return None if self.refresh is not None else self.source

    @property
    def error(self) -> CacheError | None:
        """What its source failed with."""
        return None if self.source is None else self.source.error

    @property
    def stall_ms(self) -> float:
        """Waiting for records, before the step and in it; known once it is computed."""
        return 0.0 if self.opened is None else self.opened.stall_ms
