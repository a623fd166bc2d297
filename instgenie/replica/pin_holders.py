"""Who pinned which templates: a replica's pins are shared by its front ends. Pure."""

from __future__ import annotations

from collections.abc import Iterable


class PinHolders:
    """Keys by holder. A key is to be unpinned when its last holder lets it go."""

    def __init__(self) -> None:
        self._keys: dict[str, set[str]] = {}

    def __len__(self) -> int:
        """Pins of all holders."""
        return sum(map(len, self._keys.values()))

    def more(self, holder: str, keys: Iterable[str]) -> int:
        """How many pins the holder's of these keys would add."""
        return len(set(keys) - self._keys.get(holder, set()))

    def pin(self, holder: str, keys: Iterable[str]) -> None:
        """The holder wants them kept."""
        self._keys.setdefault(holder, set()).update(keys)

    def unpin(self, holder: str, keys: Iterable[str]) -> set[str]:
        """The holder wants them no more: those that nobody else wants either."""
        wanted = set(keys)
        held = self._keys.get(holder, set())
        held -= wanted
        if not held:
            self._keys.pop(holder, None)
        return wanted.difference(*self._keys.values())

    def forget(self, keys: Iterable[str]) -> None:
        """They are gone, whoever wanted them."""
        gone = set(keys)
        for holder in list(self._keys):
            self.unpin(holder, gone)

    def leave(self, holder: str) -> set[str]:
        """The holder is gone: what is to be unpinned."""
        return self.unpin(holder, self._keys.get(holder, set()))
