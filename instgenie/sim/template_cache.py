"""A tier of whole templates within a budget, whose order of eviction the cache's own policies give. Pure."""

from __future__ import annotations

from collections.abc import Callable

from instgenie_cache.eviction import EvictionPolicy, PolicyName
from instgenie_cache.policies import make_policy


class TemplateCache:
    """Templates and their bytes; what is in use is not evicted.

    Attributes:
        budget_bytes: that templates may take.
        used_bytes: that they take.
        evicted: templates, so far.
    """

    def __init__(
        self, budget_bytes: int, policy: PolicyName = "gdsf", on_evicted: Callable[[str], None] | None = None
    ) -> None:
        """Args:
        on_evicted: told of each template that makes room for another.
        """
        self.budget_bytes = budget_bytes
        self.used_bytes = self.evicted = 0
        self._policy: EvictionPolicy[str] = make_policy(policy)
        self._on_evicted = on_evicted
        self._sizes: dict[str, int] = {}
        self._users: dict[str, int] = {}

    def __contains__(self, template: str) -> bool:
        """Whether it is there. Asking is no use of it."""
        return template in self._sizes

    def __len__(self) -> int:
        """Templates that are there."""
        return len(self._sizes)

    def insert(self, template: str, num_bytes: int, cost_ms: float) -> bool:
        """Add a template; False where what is in use leaves no room for it. One that is there is used by that.

        Args:
            cost_ms: of having it again.
        """
        if template in self._sizes:
            self._policy.touch(template)
            return True
        victims = self._victims(num_bytes)
        if victims is None:
            return False
        for victim in victims:
            self._policy.remove(victim, evicted=True)
            self.used_bytes -= self._sizes.pop(victim)
            self.evicted += 1
            if self._on_evicted is not None:
                self._on_evicted(victim)
        self._policy.insert(template, num_bytes, cost_ms)
        self._sizes[template] = num_bytes
        self.used_bytes += num_bytes
        return True

    def use(self, template: str) -> None:
        """An edit begins to read it, which has to be there: it stays until `leave`."""
        self._policy.touch(template)
        self._users[template] = self._users.get(template, 0) + 1

    def leave(self, template: str) -> None:
        """An edit reads it no more."""
        self._users[template] -= 1
        if not self._users[template]:
            del self._users[template]

    def _victims(self, num_bytes: int) -> list[str] | None:
        missing = self.used_bytes + num_bytes - self.budget_bytes
        victims: list[str] = []
        if missing > 0:
            for template in self._policy.ranked():
                if template not in self._users:
                    victims.append(template)
                    missing -= self._sizes[template]
                    if missing <= 0:
                        break
        return victims if missing <= 0 else None
