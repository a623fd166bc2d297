"""What a member of a fleet said last of its templates. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from instgenie.orders import HeldTemplate

MAX_KEYS = 100_000  # remembered; those that were told of the longest ago go first
UNKNOWN = HeldTemplate(None, 0)


class KnownRecords:
    """By key. It stands for the answer of a member that does not answer in time: that it is slow does not mean that
    its records are gone.
    """

    def __init__(self, max_keys: int = MAX_KEYS) -> None:
        self._max_keys = max_keys
        self._held: dict[str, HeldTemplate] = {}

    def learn(self, held: Mapping[str, HeldTemplate]) -> None:
        """It has told of these."""
        for key, template in held.items():
            self._held.pop(key, None)
            self._held[key] = template
        while len(self._held) > self._max_keys:
            del self._held[next(iter(self._held))]

    def held(self, keys: Iterable[str]) -> dict[str, HeldTemplate]:
        """What is known of these."""
        return {key: self._held.get(key, UNKNOWN) for key in keys}

    def forget(self, keys: Iterable[str] | None = None) -> None:
        """These are gone; None: all, with the process that told of them."""
        if keys is None:
            self._held.clear()
            return
        for key in keys:
            self._held.pop(key, None)
