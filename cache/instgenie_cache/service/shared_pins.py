"""Pins of many connections on one store: a template stays pinned while any of them pins it."""

from __future__ import annotations

from instgenie_cache.errors import CacheError
from instgenie_cache.service.served_store import ServedStore


class SharedPins:
    """Who pins what. For one thread, but for `apply`.

    A pin that has ended with its template's deletion is remembered until its owner leaves, and may hold a template of
    that name which was written since.
    """

    def __init__(self, store: ServedStore) -> None:
        self._store = store
        self._owners: dict[str, set[object]] = {}
        self._templates: dict[object, set[str]] = {}

    def add(self, owner: object, template: str, limit: int) -> None:
        """Note that an owner wants a template pinned. `apply` and `applied` are to follow.

        Raises:
            CacheError: the owner has `limit` pins already.
        """
        templates = self._templates.setdefault(owner, set())
        if template not in templates and len(templates) >= limit:
            raise CacheError(f"{limit} templates are pinned by this connection, more are not allowed")
        templates.add(template)
        self._owners.setdefault(template, set()).add(owner)

    def apply(self, template: str, *, look_up: bool = True) -> bool:
        """Pin it in the store, which may block if it is to be looked up; False where it is unknown."""
        return self._store.pin(template, look_up=look_up)

    def applied(self, owner: object, template: str, held: bool) -> bool:
        """What came of it. Returns `held`."""
        if not held:
            self.remove(owner, template)
        elif template not in self._owners:  # whoever wanted it has left meanwhile
            self._store.unpin(template)
        return held

    def remove(self, owner: object, template: str) -> None:
        """End one owner's pin. There may be none."""
        templates = self._templates.get(owner, set())
        if template in templates:
            templates.discard(template)
            self._leave(owner, template)

    def leave(self, owner: object) -> None:
        """End all pins of an owner."""
        for template in self._templates.pop(owner, set()):
            self._leave(owner, template)

    def _leave(self, owner: object, template: str) -> None:
        owners = self._owners[template]
        owners.discard(owner)
        if not owners:
            del self._owners[template]
            self._store.unpin(template)
