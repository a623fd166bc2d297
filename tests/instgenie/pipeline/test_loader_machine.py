"""The loader against sets of wanted blocks: whatever users do, in whatever order, and whatever breaks meanwhile.

What is drawn does not depend on how far the loader's thread got.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from instgenie.pipeline.copies import Copies
from instgenie.pipeline.loader import Loader, StepLoad
from instgenie.pipeline.step_source import StepLostError
from tests.cache.tiered import wait_until
from tests.instgenie.pipeline.loading import CPU, RECORD_BYTES, DeviceCopies, Source, is_right, load

BLOCKS = 6
PLENTY = 1000
ranges = st.tuples(st.integers(0, BLOCKS), st.integers(0, BLOCKS)).map(lambda ends: range(min(ends), max(ends)))


@dataclass(eq=False)
class User:
    """What one user wants, and has."""

    load: StepLoad
    source: Source
    wanted: set[int]
    is_running: bool
    tried: set[int] = field(default_factory=set)  # and not computed yet, whether they were there or lost


class LoaderMachine(RuleBasedStateMachine):
    """Users come, compute and go; sources break."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = self.make_copies()
        self.users: list[User] = []
        self.sources: list[Source] = []
        self.times_wanted: dict[tuple[Source, int], int] = {}
        self.taken: set[tuple[Source, int]] = set()
        self.payloads: list[tuple[Tensor, str, int]] = []

    def make_copies(self) -> Copies:
        """Where there is no device."""
        return Copies(CPU)

    @initialize(blocks=st.sampled_from([0, 0.5, 1, 3, PLENTY]))
    def open(self, blocks: float) -> None:
        self.budget_bytes = int(blocks * RECORD_BYTES)
        self.loader = Loader(self.copies, self.budget_bytes)

    # What users do.

    @rule(name=st.sampled_from("ab"), blocks=ranges, is_ahead=st.booleans())
    def load(self, name: str, blocks: range, is_ahead: bool) -> None:
        sharing = [user for user in self.users if user.source.name == name]
        source = Source(name, BLOCKS)
        one = load(self.loader, source, blocks, is_ahead=is_ahead)
        if source.is_closed:
            assert sharing
            assert source.reads == []
            source = sharing[-1].source
        else:
            assert all(user.load.error for user in sharing)
            self.sources.append(source)
        user = User(one, source, set(), not is_ahead)
        self.users.append(user)
        self.note(user, blocks)

    @precondition(lambda self: self.users)
    @rule(data=st.data(), blocks=ranges)
    def want(self, data: st.DataObject, blocks: range) -> None:
        user = self.drawn(data)
        self.note(user, blocks)
        user.load.want(blocks)

    @precondition(lambda self: self.users)
    @rule(data=st.data(), blocks=st.none() | ranges)
    def begin(self, data: st.DataObject, blocks: range | None) -> None:
        user = self.drawn(data)
        user.is_running = True
        if blocks is not None:
            user.wanted &= set(blocks)
            user.tried &= set(blocks)
            self.note(user, blocks)
        user.load.begin(blocks)

    @precondition(lambda self: any(user.wanted for user in self.users))
    @rule(data=st.data(), is_first=st.booleans())
    def take(self, data: st.DataObject, is_first: bool) -> None:
        """In block order as a rule; what a computation needs has to come whatever the order."""
        user = data.draw(st.sampled_from([user for user in self.users if user.wanted]))
        block = min(user.wanted) if is_first else data.draw(st.sampled_from(sorted(user.wanted)))
        user.is_running = True
        user.tried.add(block)
        try:
            payload = user.load.payload(block)
        except StepLostError:
            assert user.source.failures
            assert user.load.error is not None
            return
        self.taken.add((user.source, block))
        self.payloads.append((payload, user.source.name, block))

    @precondition(lambda self: any(user.tried for user in self.users))
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from([user for user in self.users if user.tried]))
        block = min(user.tried)
        user.load.computed(block)
        user.tried.discard(block)
        user.wanted.discard(block)

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        user = self.drawn(data)
        self.users.remove(user)
        user.load.release()
        user.load.release()

    @precondition(lambda self: self.users)
    @rule(data=st.data(), block=st.integers(0, BLOCKS - 1))
    def lose(self, data: st.DataObject, block: int) -> None:
        self.drawn(data).source.failures[block] = None

    @rule()
    def let_the_device_get_on(self) -> None:
        if isinstance(self.copies, DeviceCopies):
            self.copies.finish()
        self.check()

    # What has to be so.

    def check(self) -> None:
        """Once the device has done all it was given."""
        assert all(is_right(*payload) for payload in self.payloads)
        self.payloads.clear()
        # Beyond the budget is only what running steps have computed with, and not all who want it.
        wanted = {(user.source, block) for user in self.users for block in user.wanted if user.is_running}
        assert self.loader.held_bytes <= self.budget_bytes + len(wanted & self.taken) * RECORD_BYTES

    @invariant()
    def what_is_there_is_right(self) -> None:
        if not isinstance(self.copies, DeviceCopies):
            self.check()

    @invariant()
    def sources_are_open_while_they_have_users(self) -> None:
        assert not any(user.source.is_closed for user in self.users)

    @invariant()
    def nothing_is_read_for_nobody(self) -> None:
        for source in self.sources:
            for block in range(BLOCKS):
                reads = source.log.count((source.name, block))
                times = self.times_wanted.get((source, block), 0)
                assert reads <= times or (times and self.budget_bytes < PLENTY * RECORD_BYTES)

    def teardown(self) -> None:
        if not hasattr(self, "loader"):
            return
        for user in self.users:
            user.load.release()
        self.let_the_device_get_on()
        wait_until(lambda: self.loader.held_bytes == 0)
        wait_until(lambda: all(source.is_closed for source in self.sources))
        self.loader.close()

    def drawn(self, data: st.DataObject) -> User:
        """One of the users."""
        return data.draw(st.sampled_from(self.users))

    def note(self, user: User, blocks: range) -> None:
        """Remember that a user wants blocks."""
        others = set().union(*(other.wanted for other in self.users if other.source is user.source))
        for block in set(blocks) - others:
            self.times_wanted[user.source, block] = self.times_wanted.get((user.source, block), 0) + 1
        user.wanted.update(blocks)


class DeviceMachine(LoaderMachine):
    """With a device that gets on when somebody waits for it."""

    def make_copies(self) -> Copies:
        """Of that device."""
        return DeviceCopies()


TestOnCpu = LoaderMachine.TestCase
TestOnCpu.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestOnDevice = DeviceMachine.TestCase
TestOnDevice.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
pytestmark = pytest.mark.timeout(100)
