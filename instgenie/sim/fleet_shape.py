"""How many machines and replicas there are, and what each may keep."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie_cache.eviction import PolicyName


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetShape:
    """Budgets count whole templates of the largest size.

    Attributes:
        replicas_per_machine: that share its host tier and its disk; the last machine may have fewer.
        device_templates: that each replica's device may keep.
        host_templates, disk_templates: that each machine may keep in memory, and on its disk.
        eviction: of all tiers.

    Raises:
        ValueError: no replicas, or less than no templates.
    """

    replicas: int
    replicas_per_machine: int = 1
    device_templates: int = 0
    host_templates: int
    disk_templates: int = 0
    eviction: PolicyName = "gdsf"

    def __post_init__(self) -> None:
        if min(self.replicas, self.replicas_per_machine) < 1:
            raise ValueError(f"{self.replicas} replicas, {self.replicas_per_machine} a machine, are no fleet")
        if min(self.device_templates, self.host_templates, self.disk_templates) < 0:
            raise ValueError(f"{self} keeps less than no templates")
