"""What the replicas of a machine share: its memory and its disk, as far as they hold templates. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from instgenie.sim.template_cache import TemplateCache


@dataclass(frozen=True, slots=True)
class TemplateRecords:
    """What a template's records are.

    Attributes:
        cost_ms: of recording it.
    """

    name: str
    steps: int
    num_bytes: int
    cost_ms: float


@dataclass(frozen=True, slots=True)
class Coming:
    """A template that the disk is reading, a step after the other.

    Attributes:
        begins: when the first of them is read, in seconds on the simulation's clock.
        step_seconds: that each takes.
        ends: when all are in memory.
    """

    begins: float
    step_seconds: float
    ends: float


@dataclass(frozen=True, slots=True)
class Use:
    """An edit's use of a template.

    Attributes:
        tiers: that keep it meanwhile.
        coming: where the disk still reads it; None where it is in memory.
    """

    tiers: tuple[TemplateCache, ...]
    coming: Coming | None


class Machine:
    """Templates are recorded into memory, and onto the disk; from there they are brought into memory again.

    A template is there once all of its steps are. One is recorded by one replica at a time. Where memory is too full of
    templates in use, one that is on disk is read past it.

    Attributes:
        host, disk: tiers; a disk of no bytes holds nothing.
    """

    def __init__(self, name: str, host: TemplateCache, disk: TemplateCache, disk_byte_seconds: float) -> None:
        self.name, self.host, self.disk = name, host, disk
        self._disk_byte_seconds = disk_byte_seconds
        self._disk_free_at = 0.0
        self._recording: set[str] = set()
        self._coming: dict[str, Coming] = {}

    def holds(self, template: str) -> bool:
        """Whether its records can be read."""
        return template not in self._recording and (template in self.host or template in self.disk)

    def begin_record(self, template: TemplateRecords) -> bool:
        """Have a template recorded, whose room is kept from now on; False where another replica does that, or there is
        no room."""
        name = template.name
        if name in self._recording or not self.host.insert(name, template.num_bytes, template.cost_ms):
            return False
        self.host.use(name)
        self._recording.add(name)
        return True

    def recorded(self, template: TemplateRecords) -> None:
        """It is complete."""
        self._recording.discard(template.name)
        self.host.leave(template.name)
        self.disk.insert(template.name, template.num_bytes, template.cost_ms)

    def prefetch(self, template: TemplateRecords, now: float) -> None:
        """Have a template brought into memory that is on disk alone, if there is room."""
        name = template.name
        if name not in self.disk or name in self.host:
            return
        if self.host.insert(name, template.num_bytes, template.cost_ms):
            self._coming[name] = self._read(template, now)

    def open(self, template: TemplateRecords, now: float) -> Use:
        """Begin an edit's use of a template, which has to be there. `close` ends it."""
        self.prefetch(template, now)
        tiers = tuple(tier for tier in (self.disk, self.host) if template.name in tier)
        for tier in tiers:
            tier.use(template.name)
        coming = self._coming.get(template.name) if self.host in tiers else self._read(template, now)
        return Use(tiers, coming if coming is not None and coming.ends > now else None)

    def close(self, template: TemplateRecords, use: Use) -> None:
        """An edit reads it no more."""
        for tier in use.tiers:
            tier.leave(template.name)

    def _read(self, template: TemplateRecords, now: float) -> Coming:
        """The disk reads a template after those before it."""
        begins = max(now, self._disk_free_at)
        seconds = template.num_bytes * self._disk_byte_seconds
        self._disk_free_at = begins + seconds
        return Coming(begins, seconds / template.steps, begins + seconds)
