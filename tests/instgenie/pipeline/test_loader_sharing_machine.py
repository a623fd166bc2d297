"""Users of one step whose leases are lost or given back at any time: nobody is told that wrong payloads were right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from instgenie.pipeline.copies import Copies
from instgenie.pipeline.loader import Loader, StepLoad
from instgenie.pipeline.step_source import StepLostError
from tests.cache.tiered import wait_until
from tests.instgenie.pipeline.loading import CPU, RECORD_BYTES, DeviceCopies, DeviceWork, Source, is_right, load

BLOCKS = 6
ranges = st.tuples(st.integers(0, BLOCKS), st.integers(0, BLOCKS)).map(lambda ends: range(min(ends), max(ends)))


@dataclass(eq=False)
class User:
    """What one user wants, and what came of what it computed."""

    load: StepLoad
    source: Source
    wanted: set[int]
    results: list[bool] = field(default_factory=list)


class SharingMachine(RuleBasedStateMachine):
    """Users come with sources of their own, compute, lose their leases and go, not always when they are done."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = self.make_copies()
        self.users: list[User] = []
        self.sources: list[Source] = []

    def make_copies(self) -> Copies:
        """Payloads lie where the sources have them."""
        return Copies(CPU)

    @initialize(blocks=st.sampled_from([0, 1, 3, 1000]))
    def open(self, blocks: int) -> None:
        self.loader = Loader(self.copies, blocks * RECORD_BYTES)

    @rule(blocks=ranges, is_ahead=st.booleans(), is_own=st.booleans())
    def load(self, blocks: range, is_ahead: bool, is_own: bool) -> None:
        source = Source("a", BLOCKS, owner=f"user {len(self.sources)}")
        source.is_own = is_own
        self.sources.append(source)
        self.users.append(User(load(self.loader, source, blocks, is_ahead=is_ahead), source, set(blocks)))

    @precondition(lambda self: any(user.wanted for user in self.users))
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        """The next block: all who need it take it, and then it is computed for one after the other."""
        block = min(block for user in self.users for block in user.wanted)
        users = [user for user in self.users if block in user.wanted]
        launched: list[tuple[User, Callable[[], bool]]] = []
        for user in users:
            try:
                payload = user.load.payload(block)
            except StepLostError:
                assert user.source.failures  # as those of all who share the load with it
                continue
            launched.append((user, lambda payload=payload: is_right(payload, "a", block)))  # type: ignore[misc]
        goes = data.draw(st.none() | st.sampled_from(users))
        if goes is not None and len(users) > 1:
            self.release(goes)
        for user, result in launched:
            if user in self.users:
                self.launch(user, result)
        for user in users:
            if user in self.users:
                user.load.computed(block)
                user.wanted.discard(block)

    def launch(self, user: User, result: Callable[[], bool]) -> None:
        """Compute at once."""
        user.results.append(result())

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def lose_lease(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.users)).source.lose()

    @precondition(lambda self: self.users)
    @rule(data=st.data(), block=st.integers(0, BLOCKS - 1))
    def lose_record(self, data: st.DataObject, block: int) -> None:
        data.draw(st.sampled_from(self.users)).source.failures[block] = None

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.release(data.draw(st.sampled_from(self.users)))

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        """As a step that was computed is finished: once the device is done with it."""
        user = data.draw(st.sampled_from(self.users))
        self.get_on()
        if user.load.is_valid:
            assert all(user.results)
        self.release(user)

    @rule()
    def get_on(self) -> None:
        if isinstance(self.copies, DeviceCopies):
            self.copies.finish()

    def release(self, user: User) -> None:
        """Without asking for anything."""
        self.users.remove(user)
        user.load.release()

    def teardown(self) -> None:
        if not hasattr(self, "loader"):
            return
        self.get_on()
        for user in list(self.users):
            if user.load.is_valid:
                assert all(user.results)
            self.release(user)
        self.get_on()
        wait_until(lambda: self.loader.held_bytes == 0)
        wait_until(lambda: all(source.is_closed for source in self.sources))
        self.loader.close()


class DeviceSharingMachine(SharingMachine):
    """With a device that gets to its work when somebody waits for it."""

    def make_copies(self) -> Copies:
        """To that device."""
        return DeviceCopies()

    def launch(self, user: User, result: Callable[[], bool]) -> None:
        """Compute when the device gets there."""
        assert isinstance(self.copies, DeviceCopies)
        before = list(self.copies.launched)

        def work() -> None:
            for other in before:
                other.synchronize()
            user.results.append(result())

        self.copies.launched.append(DeviceWork(work))


TestInPlace = SharingMachine.TestCase
TestInPlace.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestOnDevice = DeviceSharingMachine.TestCase
TestOnDevice.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
pytestmark = pytest.mark.timeout(100)
