"""Keys are verified slowly once, and wrong ones cannot be tried for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.key_ring import MAX_AGE_SECONDS, KeyRing
from instgenie_server.access.key_verifier import MAX_WAITING, KeyVerifier
from instgenie_server.access.keys import ScryptCost, StoredKey, matches
from instgenie_server.api_error import ApiError
from tests.server.manual_clock import ManualClock

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CHEAP = ScryptCost(n=2)
FAILURES_PER_MINUTE = 3
HOME = "192.0.2.1"


class CountingCheck:
    """Compares as the real one does, counts, and can be made to wait."""

    def __init__(self) -> None:
        self.checked: list[StoredKey] = []
        self.running = 0
        self.most_running = 0
        self.begun = threading.Event()
        self.may_go = threading.Event()
        self.may_go.set()
        self._lock = threading.Lock()

    def __call__(self, secret: str, key: StoredKey) -> bool:
        with self._lock:
            self.checked.append(key)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        self.begun.set()
        try:
            assert self.may_go.wait(30)
            return matches(secret, key)
        finally:
            with self._lock:
                self.running -= 1

    @contextmanager
    def held(self) -> Iterator[None]:
        """Checks that begin in the block end after it."""
        self.begun.clear()
        self.may_go.clear()
        try:
            yield
        finally:
            self.may_go.set()


class Setup:
    """A verifier with what it works on."""

    def __init__(self, folder: Path) -> None:
        self.file = KeyFile(folder)
        self.text, self.key = self.file.add("alice", NOW, CHEAP)
        self.clock = ManualClock()
        self.check = CountingCheck()
        ring = KeyRing(self.file, self.clock)
        self.verifier = KeyVerifier(ring, FAILURES_PER_MINUTE, clock=self.clock, check=self.check)

    async def refusal(self, text: str, remote: str = HOME) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await self.verifier.verify(text, remote)
        return caught.value


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    made = await asyncio.to_thread(Setup, tmp_path)
    yield made
    made.check.may_go.set()
    made.verifier.close()


def wrong(text: str) -> str:
    """The same id with another secret."""
    return text[:-1] + ("a" if text[-1] != "a" else "b")


async def test_slow_hash_is_paid_once(setup: Setup) -> None:
    for _ in range(5):
        assert await setup.verifier.verify(setup.text, HOME) == setup.key
    assert len(setup.check.checked) == 1


async def test_slow_hash_is_paid_once_by_requests_at_the_same_time(setup: Setup) -> None:
    keys = await asyncio.gather(*(setup.verifier.verify(setup.text, HOME) for _ in range(20)))
    assert set(keys) == {setup.key}
    assert len(setup.check.checked) == 1


async def test_wrong_secret_is_refused_though_the_key_is_remembered(setup: Setup) -> None:
    await setup.verifier.verify(setup.text, HOME)
    error = await setup.refusal(wrong(setup.text))
    assert (error.status, error.code) == (401, "invalid_api_key")
    assert setup.text not in error.message


async def test_unknown_id_costs_and_says_the_same_as_a_wrong_secret(setup: Setup) -> None:
    unknown = await setup.refusal("ig-00000000." + "a" * 32)
    known = await setup.refusal(wrong(setup.text))
    assert unknown.body() == known.body()
    assert [key.cost for key in setup.check.checked] == [CHEAP, CHEAP]


async def test_text_that_cannot_be_a_key_costs_nothing(setup: Setup) -> None:
    assert (await setup.refusal("sk-proj-1234")).status == 401
    assert setup.check.checked == []


async def test_new_key_works_at_once(setup: Setup) -> None:
    await setup.verifier.verify(setup.text, HOME)
    text, key = await asyncio.to_thread(setup.file.add, "bob", NOW, CHEAP)
    assert await setup.verifier.verify(text, HOME) == key


async def test_revoked_key_stops_to_work(setup: Setup) -> None:
    await setup.verifier.verify(setup.text, HOME)
    await asyncio.to_thread(setup.file.revoke, setup.key.id)
    setup.clock.now += MAX_AGE_SECONDS
    assert (await setup.refusal(setup.text)).status == 401


async def test_failures_of_an_address_are_limited(setup: Setup) -> None:
    await setup.verifier.verify(setup.text, "198.51.100.7")
    for _ in range(FAILURES_PER_MINUTE):
        assert (await setup.refusal(wrong(setup.text))).status == 401
        setup.clock.now += 10
    num_checked = len(setup.check.checked)
    error = await setup.refusal(wrong(setup.text))
    assert (error.status, error.code, error.retry_after) == (429, "too_many_failures", 30)
    assert len(setup.check.checked) == num_checked
    # Others, and keys that were right before, are not affected.
    assert (await setup.refusal(wrong(setup.text), "198.51.100.7")).status == 401
    assert await setup.verifier.verify(setup.text, HOME) == setup.key
    setup.clock.now += 30
    assert (await setup.refusal(wrong(setup.text))).status == 401


async def test_one_ipv6_network_is_one_address(setup: Setup) -> None:
    for number in range(FAILURES_PER_MINUTE):
        assert (await setup.refusal(wrong(setup.text), f"2001:db8::{number}")).status == 401
    assert (await setup.refusal(wrong(setup.text), "2001:db8::ffff")).status == 429
    assert (await setup.refusal(wrong(setup.text), "2001:db8:0:1::1")).status == 401
    assert (await setup.refusal(wrong(setup.text), "")).status == 401


async def test_guesses_at_the_same_time_do_not_pass_the_limit(setup: Setup) -> None:
    results = await asyncio.gather(*(setup.refusal(wrong(setup.text)) for _ in range(20)))
    assert sorted(error.status for error in results) == [401] * FAILURES_PER_MINUTE + [429] * (20 - FAILURES_PER_MINUTE)
    assert len(setup.check.checked) == FAILURES_PER_MINUTE
    assert setup.check.most_running == 1


async def test_what_waits_is_bounded(setup: Setup) -> None:
    with setup.check.held():
        waiting = [
            asyncio.create_task(setup.refusal(wrong(setup.text), f"192.0.2.{number}")) for number in range(MAX_WAITING)
        ]
        assert await asyncio.to_thread(setup.check.begun.wait, 30)
        error = await setup.refusal(wrong(setup.text), "198.51.100.7")
        assert (error.status, error.code) == (429, "overloaded")
    assert {error.status for error in await asyncio.gather(*waiting)} == {401}
    assert setup.check.most_running == 1


async def test_guess_that_is_given_up_counts(setup: Setup) -> None:
    for _ in range(FAILURES_PER_MINUTE):
        with setup.check.held():
            guess = asyncio.create_task(setup.verifier.verify(wrong(setup.text), HOME))
            assert await asyncio.to_thread(setup.check.begun.wait, 30)
            guess.cancel()
            with pytest.raises(asyncio.CancelledError):
                await guess
    assert (await setup.refusal(wrong(setup.text))).status == 429
