"""Is this key one of ours? The slow hash is paid once per key, off the loop, and strangers cannot make us pay much."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from instgenie_server.access.key_ring import KeyRing
from instgenie_server.access.keys import ScryptCost, StoredKey, decoy, matches, split_key
from instgenie_server.access.moving_window import MovingWindow
from instgenie_server.access.remote import network_of
from instgenie_server.api_error import busy, unauthorized

MAX_WAITING = 64  # requests with keys not seen before; at some 60 ms each the last one waits 4 s
FAILURE_WINDOW_SECONDS = 60.0

_WRONG = "this API key is not known here, or was revoked"


class KeyVerifier:
    """Verifies keys against the ring, one slow hash at a time.

    A key that was right is remembered by a fast hash, keyed with a secret of this process, for as long as the ring
    holds it unchanged. An unknown id costs the same slow hash as a wrong secret, so that timing tells them apart no
    more than the message does. An address with too many failures has to wait, but for keys remembered as right.
    """

    def __init__(
        self,
        ring: KeyRing,
        failures_per_minute: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        check: Callable[[str, StoredKey], bool] = matches,
    ) -> None:
        self._ring = ring
        self._failures = MovingWindow(failures_per_minute, FAILURE_WINDOW_SECONDS)
        self._clock = clock
        self._check = check
        self._fast_hash_key = secrets.token_bytes(32)
        self._verified: dict[str, tuple[StoredKey, bytes]] = {}  # by id, of keys that were right
        self._decoys: dict[ScryptCost, StoredKey] = {}
        self._executor = ThreadPoolExecutor(1, "verify-key")
        self._turn = asyncio.Semaphore(1)
        self._num_waiting = 0

    async def verify(self, text: str, remote: str) -> StoredKey:
        """The stored key that the text is.

        Args:
            remote: address that the request comes from.
        Raises:
            ApiError: 401 for a key that is not ours; 429 for too many failures, or too many unknown keys at once.
        """
        parts = split_key(text)
        if parts is None:
            raise unauthorized(_WRONG)
        key_id, secret = parts
        fast_hash = hmac.digest(self._fast_hash_key, text.encode(), hashlib.sha256)
        known = self._remembered(key_id, fast_hash, await self._ring.keys())
        if known is not None:
            return known
        network = network_of(remote)
        self._refuse_frequent_failures(network)
        if self._num_waiting >= MAX_WAITING:
            raise busy("too many API keys are being verified", 1.0)
        self._num_waiting += 1
        try:
            async with self._turn:
                return await self._verify_slowly(key_id, secret, fast_hash, network)
        finally:
            self._num_waiting -= 1

    def close(self) -> None:
        """Take no further keys."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _verify_slowly(self, key_id: str, secret: str, fast_hash: bytes, network: str) -> StoredKey:
        keys = await self._ring.keys(now=True)  # a key that was just made works at once
        known = self._remembered(key_id, fast_hash, keys)  # by a request that had its turn before
        if known is not None:
            return known
        self._refuse_frequent_failures(network)
        key = keys.get(key_id)
        try:
            loop = asyncio.get_running_loop()
            is_right = await loop.run_in_executor(self._executor, self._check, secret, key or self._decoy(keys))
        except asyncio.CancelledError:  # hanging up early must not make guesses free
            self._failures.hit(network, self._clock())
            raise
        if key is None or not is_right:
            self._failures.hit(network, self._clock())
            raise unauthorized(_WRONG)
        self._verified = {id_: entry for id_, entry in self._verified.items() if id_ in keys}
        self._verified[key_id] = key, fast_hash
        return key

    def _remembered(self, key_id: str, fast_hash: bytes, keys: Mapping[str, StoredKey]) -> StoredKey | None:
        if key_id not in self._verified:
            return None
        key, right_hash = self._verified[key_id]
        is_right = hmac.compare_digest(fast_hash, right_hash)
        return key if is_right and keys.get(key_id) == key else None

    def _refuse_frequent_failures(self, network: str) -> None:
        wait_seconds = self._failures.wait_seconds(network, self._clock())
        if wait_seconds > 0:
            raise busy("too many wrong API keys from this address", wait_seconds, "too_many_failures")

    def _decoy(self, keys: Mapping[str, StoredKey]) -> StoredKey:
        """As costly as the newest key."""
        cost = list(keys.values())[-1].cost if keys else ScryptCost()
        if cost not in self._decoys:
            self._decoys = {cost: decoy(datetime.now(UTC), cost)}
        return self._decoys[cost]
