"""A step that is being loaded: who wants it, by whose right it is read, and what of that holds. No thread, no lock."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from instgenie.pipeline.copies import Copy, DeviceEvent
from instgenie.pipeline.step_source import StepLostError, StepSource
from instgenie_cache import CacheError


class Urgency(IntEnum):
    """Why a block is wanted; the least goes first."""

    AWAITED = 0  # the computation waits for it
    RUNNING = 1  # a running step will need it
    AHEAD = 2


@dataclass(slots=True, eq=False)
class Right:
    """A source, and how many read by it: what it gave is good for as long as one of them is there.

    Attributes:
        last_copy: once it has come to pass, nothing is copied from the source any more.
    """

    source: StepSource
    users: int = 0
    is_reading: bool = False
    last_copy: DeviceEvent | None = None


@dataclass(slots=True, eq=False)
class LoadingBlock:
    """One record on its way.

    Attributes:
        copy: None until it was brought.
        right: that it was read by; None where it does not depend on one any more.
        users: who have yet to compute with it; `running` of them in steps that run.
        is_taken: a computation has it, or had.
        last_use: once it has come to pass, the device is done with the buffer; None is at once.
    """

    copy: Copy | None = None
    right: Right | None = None
    users: int = 0
    running: int = 0
    is_awaited: bool = False
    is_taken: bool = False
    last_use: DeviceEvent | None = None
    queued_as: Urgency | None = None

    @property
    def urgency(self) -> Urgency:
        """Of its most urgent user."""
        if self.is_awaited:
            return Urgency.AWAITED
        return Urgency.RUNNING if self.running else Urgency.AHEAD


class Taken(NamedTuple):
    """A block that a computation took while it depended on a right; not its payload, whose memory goes before.

    Attributes:
        done: once it has come to pass, it was copied; None is at once.
    """

    number: int
    done: DeviceEvent | None
    right: Right


@dataclass(slots=True, eq=False)
class LoadUser:
    """Who wants a step.

    Attributes:
        wanted: blocks that it has not computed with yet.
        taken: what it computes with, or did, and may yet turn out not to be the step's.
        is_sound: False where something of it did.
    """

    right: Right
    wanted: set[int] = field(default_factory=set)
    taken: list[Taken] = field(default_factory=list)
    is_sound: bool = True

    @property
    def is_valid(self) -> bool:
        """Whether all that it took was the step's."""
        return self.is_sound and all(right.source.is_valid for right in {taken.right for taken in self.taken})


@dataclass(slots=True, eq=False)
class LoadingStep:
    """The records of one step that somebody wants.

    Attributes:
        place: what it is found by.
        buffer_bytes: that one takes; 0 where it is used where it is.
        rights: that it can be read by; the first one is.
        failure: of the last source that failed.
    """

    place: Hashable
    record_bytes: int
    buffer_bytes: int
    blocks: dict[int, LoadingBlock] = field(default_factory=dict)
    users: list[LoadUser] = field(default_factory=list)
    rights: list[Right] = field(default_factory=list)
    failure: CacheError | None = None
    held_bytes: int = 0
    read_ms: float = 0.0

    @property
    def error(self) -> CacheError | None:
        """Why no more of it can be brought."""
        return None if self.rights else self.failure

    def join(self, source: StepSource) -> LoadUser:
        """One more user, whose source it is; of the sources of one owner the first is enough."""
        right = next((right for right in self.rights if right.source.owner is source.owner), None)
        if right is None:
            right = Right(source)
            self.rights.append(right)
        right.users += 1
        user = LoadUser(right)
        self.users.append(user)
        return user

    def take(self, user: LoadUser, number: int) -> Copy | None:
        """Compute with a block from now on, if it is there."""
        block = self.blocks[number]
        if block.copy is not None:
            block.is_taken = True
            if block.right is not None:
                user.taken.append(Taken(number, block.copy.done, block.right))
        return block.copy

    def fail(self, right: Right, error: CacheError) -> None:
        """A source cannot be read. The others may be where that is its own affair: its lease's, not the store's."""
        self.failure = error
        if isinstance(error, StepLostError) or not right.source.is_valid:
            self.rights = [other for other in self.rights if other is not right]
        else:
            self.rights.clear()

    def leave(self, user: LoadUser, *, is_in_place: bool) -> list[int]:
        """A user goes, and a right with the last who read by it.

        What others took by that right is theirs if it is the step's as things are: it may not be later.

        Args:
            is_in_place: payloads lie where the source has them, or in memory of their own.
        Returns:
            the blocks that have to be read again, by another right.
        """
        self.users.remove(user)
        right = user.right
        right.users -= 1
        if right.users:
            return []
        self.rights = [other for other in self.rights if other is not right]
        is_valid, stays = right.source.is_valid, not is_in_place or right.source.is_own

        def is_good(done: DeviceEvent | None) -> bool:
            return is_valid and (done is None or done.query())

        for other in self.users:
            for taken in other.taken:
                is_through = stays or taken.number not in other.wanted
                if taken.right is right and not (is_through and is_good(taken.done)):
                    other.is_sound = False
            other.taken = [taken for taken in other.taken if taken.right is not right]
        lost = []
        for number, block in self.blocks.items():
            if block.right is right and block.copy is not None:
                block.right = None
                if not (stays and is_good(block.copy.done)):
                    lost.append(number)
        return lost
