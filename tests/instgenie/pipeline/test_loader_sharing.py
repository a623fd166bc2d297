"""Several who want one step, each by a lease of his own: what is loaded once, and what of it holds when one goes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
from torch import Tensor

from instgenie.pipeline.copies import Copies
from instgenie.pipeline.loader import Loader, StepLoad
from instgenie.pipeline.step_source import StepLostError
from instgenie_cache import CacheError
from tests.cache.tiered import wait_until
from tests.instgenie.pipeline.loading import (
    CPU,
    DeviceCopies,
    Source,
    a_loader,
    compute,
    is_right,
    load,
    release,
)

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def sources() -> tuple[Source, Source]:
    """The same step, by the leases of two."""
    return Source("a", owner="mine"), Source("a", owner="theirs")


@pytest.fixture
def loader() -> Iterator[Loader]:
    """Where payloads lie where the sources have them."""
    with a_loader() as loader:
        yield loader


def all_there(one: StepLoad, blocks: range) -> None:
    """Wait until they are."""
    wait_until(lambda: all(one.is_there(block) for block in blocks))


def test_a_step_is_loaded_once_for_all_leases(loader: Loader, sources: tuple[Source, Source]) -> None:
    mine, theirs = sources
    users = [load(loader, mine, range(8)), load(loader, theirs, range(2, 8))]
    for block in range(8):
        for user in users[: 2 if block >= 2 else 1]:
            assert is_right(user.payload(block), "a", block)
        for user in users:
            user.computed(block)
    for user in users:
        assert user.is_valid
        user.release()
    assert [block for _, block in mine.log] == list(range(8))
    assert theirs.log == []
    assert mine.is_closed
    assert theirs.is_closed
    assert loader.held_bytes == 0


def test_a_source_is_closed_when_its_own_user_goes_and_not_before(
    loader: Loader, sources: tuple[Source, Source]
) -> None:
    mine, theirs = sources
    users = [load(loader, mine, range(4)), load(loader, theirs, range(4))]
    assert not theirs.is_closed
    users[1].release()
    assert theirs.is_closed
    assert not mine.is_closed
    users[0].release()
    assert mine.is_closed


def test_when_the_first_goes_the_second_reads_by_its_own_lease_what_it_has_yet_to_compute(
    loader: Loader, sources: tuple[Source, Source]
) -> None:
    """The memory that the first one's lease gave is somebody else's from then on."""
    mine, theirs = sources
    first, second = load(loader, mine, range(8)), load(loader, theirs, range(8), is_ahead=True)
    all_there(second, range(8))
    compute(second, range(3))
    first.release()
    assert mine.is_closed
    compute(second, range(3, 8))
    assert second.is_valid
    second.release()
    assert [block for _, block in theirs.log] == list(range(3, 8))
    assert loader.held_bytes == 0


def test_what_lies_in_memory_of_its_own_stays_when_the_first_goes(
    loader: Loader, sources: tuple[Source, Source]
) -> None:
    mine, theirs = sources
    mine.is_own = True
    first, second = load(loader, mine, range(8)), load(loader, theirs, range(8), is_ahead=True)
    all_there(second, range(8))
    first.release()
    compute(second, range(8))
    assert second.is_valid
    assert theirs.log == []
    second.release()


def test_whoever_comes_with_the_lease_of_another_holds_it_too(loader: Loader) -> None:
    mine, again, theirs = Source("a", owner="mine"), Source("a", owner="mine"), Source("a", owner="theirs")
    first = load(loader, mine, range(4))
    others = [load(loader, theirs, range(4)), load(loader, again, range(4))]
    assert again.is_closed
    all_there(first, range(4))
    first.release()
    for user in others:
        user.payload(2)
    compute(others[1], range(4))
    assert others[1].is_valid
    assert theirs.log == []
    release(others)
    assert mine.is_closed
    assert theirs.is_closed


def test_a_read_by_the_lease_of_one_who_goes_meanwhile_is_nothing_to_the_other(
    loader: Loader, sources: tuple[Source, Source]
) -> None:
    mine, theirs = sources
    gate = mine.gate(1)
    first, second = load(loader, mine, range(3)), load(loader, theirs, range(3))
    gate.wait()
    first.release()
    mine.failures[1] = CacheError("the lease was released")
    gate.open()
    compute(second, range(3))
    assert second.error is None
    assert second.is_valid
    second.release()
    assert mine.is_closed_soon()
    assert [block for _, block in theirs.log] == [0, 1, 2]
    assert loader.held_bytes == 0


def test_what_is_read_for_one_who_goes_is_not_used_by_the_other(loader: Loader, sources: tuple[Source, Source]) -> None:
    mine, theirs = sources
    gate = mine.gate(1)
    first, second = load(loader, mine, range(3)), load(loader, theirs, range(3))
    gate.wait()
    first.release()
    gate.open()
    assert mine.is_closed_soon()
    compute(second, range(3))
    assert second.is_valid
    second.release()


# What was computed with.


def test_computing_with_memory_that_went_is_not_valid(loader: Loader, sources: tuple[Source, Source]) -> None:
    first, second = (load(loader, source, range(4)) for source in sources)
    second.payload(0)
    first.release()
    assert not second.is_valid
    second.release()


def test_what_was_computed_before_the_memory_went_is_valid(loader: Loader, sources: tuple[Source, Source]) -> None:
    first, second = (load(loader, source, range(4)) for source in sources)
    compute(second, range(2))
    first.release()
    sources[0].lose()
    assert second.is_valid
    second.release()


@pytest.mark.parametrize("who", [0, 1])
def test_validity_is_that_of_the_lease_that_a_payload_was_read_by(
    loader: Loader, sources: tuple[Source, Source], who: int
) -> None:
    users = [load(loader, source, range(4)) for source in sources]
    for user in users:
        compute(user, range(4))
    sources[who].lose()
    assert [user.is_valid for user in users] == [who == 1] * 2
    release(users)


def test_a_lease_that_is_lost_when_its_user_goes_leaves_nothing(loader: Loader, sources: tuple[Source, Source]) -> None:
    mine, theirs = sources
    mine.is_own = True
    first, second = load(loader, mine, range(4)), load(loader, theirs, range(4))
    compute(second, range(1))
    all_there(second, range(1, 4))
    mine.lose()
    first.release()
    assert not second.is_valid
    compute(second, range(1, 4))  # these are right again
    assert not second.is_valid
    second.release()


def test_who_took_nothing_yet_does_not_care_about_a_lost_lease(loader: Loader, sources: tuple[Source, Source]) -> None:
    mine, theirs = sources
    first, second = load(loader, mine, range(4)), load(loader, theirs, range(4))
    all_there(second, range(4))
    mine.lose()
    first.release()
    compute(second, range(4))
    assert second.is_valid
    second.release()


# Failures.


@pytest.mark.parametrize("is_lost", [True, False])
def test_where_a_lease_fails_that_of_another_serves_both(
    loader: Loader, sources: tuple[Source, Source], *, is_lost: bool
) -> None:
    mine, theirs = sources
    mine.failures[2] = None if is_lost else CacheError("no connection")
    gate = mine.gate(2)
    users = [load(loader, mine, range(4)), load(loader, theirs, range(4))]
    gate.wait()
    mine.is_valid = is_lost
    gate.open()
    for user in users:
        user.payload(3)
    mine.is_valid = True
    for user in users:
        compute(user, range(4))
        assert user.error is None
        assert user.is_valid
    assert sorted(block for _, block in theirs.log) == [2, 3]
    release(users)
    assert mine.is_closed
    assert loader.held_bytes == 0


def test_where_the_store_fails_nobody_else_asks_it(loader: Loader, sources: tuple[Source, Source]) -> None:
    """It may be that each waits for an answer."""
    mine, theirs = sources
    mine.failures[2] = CacheError("no answer in 30 s")
    gate = mine.gate(2)
    users = [load(loader, mine, range(4)), load(loader, theirs, range(4))]
    gate.open()
    for user in users:
        with pytest.raises(CacheError, match="no answer"):
            user.payload(2)
    assert theirs.log == []
    release(users)


@pytest.mark.parametrize("goes_first", [0, 1])
def test_when_all_leases_failed_or_went_there_is_an_error(
    loader: Loader, sources: tuple[Source, Source], goes_first: int
) -> None:
    mine, theirs = sources
    mine.failures[0] = theirs.failures[3] = None
    gates = [mine.gate(0), theirs.gate(3)]
    users = [load(loader, mine, range(4)), load(loader, theirs, range(4))]
    gates[0].open()
    gates[1].wait()
    stays = users[1 - goes_first]
    users[goes_first].release()  # the one who failed, or the one who is being read for
    gates[1].open()
    with pytest.raises(StepLostError):
        stays.payload(3)
    assert stays.error is not None
    stays.release()
    assert mine.is_closed_soon()
    assert theirs.is_closed_soon()
    wait_until(lambda: loader.held_bytes == 0)


# On a device.


def test_on_a_device_what_was_copied_stays_and_the_rest_is_read_again(sources: tuple[Source, Source]) -> None:
    mine, theirs = sources
    device = DeviceCopies(is_held=True)
    with a_loader(copies=device) as loader:
        first, second = load(loader, mine, range(6)), load(loader, theirs, range(6), is_ahead=True)
        all_there(second, range(6))
        for work in device.copied[:4]:
            work.finish()
        first.release()
        payloads = []
        for block in range(6):
            payloads.append(second.payload(block))
            second.computed(block)
        device.finish()
        mine.lose()  # which is nothing to what was copied
        assert all(is_right(payload, "a", block) for block, payload in enumerate(payloads))
        assert second.is_valid
        second.release()
        assert loader.held_bytes == 0
        assert mine.is_closed_soon()
    assert [block for _, block in theirs.log] == [4, 5]


@pytest.mark.parametrize("is_copied", [False, True])
def test_on_a_device_nothing_is_said_of_what_is_still_copied_from_memory_that_goes(
    sources: tuple[Source, Source], *, is_copied: bool
) -> None:
    device = DeviceCopies(is_held=True)
    with a_loader(copies=device) as loader:
        first, second = (load(loader, source, range(2)) for source in sources)
        for block in range(2):
            second.payload(block)
            second.computed(block)
        if is_copied:
            device.finish()
        first.release()
        device.finish()
        assert second.is_valid == is_copied
        second.release()


def test_memory_of_a_block_goes_when_all_have_computed_with_it(sources: tuple[Source, Source]) -> None:
    """Though the step is not released: it would need room for all of its blocks."""

    def payloads(user: StepLoad) -> list[weakref.ref[Tensor]]:
        found = []
        for block in range(4):
            found.append(weakref.ref(user.payload(block)))
            user.computed(block)
        return found

    with a_loader(copies=Copies(CPU, Tensor.clone)) as loader:
        users = [load(loader, source, range(4)) for source in sources]
        first, second = payloads(users[0]), payloads(users[1])
        gc.collect()
        assert loader.held_bytes == 0
        assert [reference() for reference in first + second] == [None] * 8
        release(users)
