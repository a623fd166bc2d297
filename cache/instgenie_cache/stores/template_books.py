"""Sums over the templates of a store, kept as they come and go so that asking takes no time. Guarded by its lock."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie_cache.names import namespace_of

_MAX_NAMESPACES = 10_000  # whose counts are kept beyond the life of their templates


@dataclass(slots=True)
class Counts:
    """Of a namespace, or of all: templates and payload bytes that are there, and what happened so far."""

    templates: int = 0
    num_bytes: int = 0
    hits: int = 0
    misses: int = 0
    evicted: int = 0


class TemplateBooks:
    """Counts of all and by namespace. Namespaces that never had a template are counted in all alone."""

    def __init__(self) -> None:
        self.all = Counts()
        self._by_namespace: dict[str, Counts] = {}

    def of(self, namespace: str | None) -> Counts:
        """A namespace's counts; those of all for None."""
        return self.all if namespace is None else self._by_namespace.get(namespace, Counts())

    def came(self, template: str, num_bytes: int) -> None:
        """A template was committed or found."""
        namespace = namespace_of(template)
        if namespace not in self._by_namespace:
            self._forget_empty()
            self._by_namespace[namespace] = Counts()
        for counts in self._both(template):
            counts.templates += 1
            counts.num_bytes += num_bytes

    def went(self, template: str, num_bytes: int) -> None:
        """A template is no longer there."""
        for counts in self._both(template):
            counts.templates -= 1
            counts.num_bytes -= num_bytes

    def hit(self, template: str) -> None:
        """A template was leased."""
        for counts in self._both(template):
            counts.hits += 1

    def missed(self, template: str) -> None:
        """A template was asked for that is not there."""
        for counts in self._both(template):
            counts.misses += 1

    def evicted(self, template: str) -> None:
        """A template made room for others."""
        for counts in self._both(template):
            counts.evicted += 1

    def _both(self, template: str) -> list[Counts]:
        own = self._by_namespace.get(namespace_of(template))
        return [self.all] if own is None else [self.all, own]

    def _forget_empty(self) -> None:
        if len(self._by_namespace) >= _MAX_NAMESPACES:
            self._by_namespace = {name: counts for name, counts in self._by_namespace.items() if counts.templates}
