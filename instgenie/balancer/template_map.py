"""Where templates' records are: on devices, and in the tiers that the replicas of a machine share. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from math import inf
from typing import TypeVar

from instgenie.orders import ServingTier


class Warmth(IntEnum):
    """How an edit gets K and V of the tokens that it does not compute.

    The first four: from records in that tier. COLD: it records the template. DENSE: it computes all tokens, because
    another replica of the machine records the template just now, or because the order wants it so.
    """

    DEVICE = 0
    HOST = 1
    DISK = 2
    OBJECT = 3
    COLD = 4
    DENSE = 5


WARMTH: dict[ServingTier, Warmth] = {
    "device": Warmth.DEVICE,
    "host": Warmth.HOST,
    "disk": Warmth.DISK,
    "object": Warmth.OBJECT,
}

DEVICE_SECONDS = 600.0

Place = TypeVar("Place")


@dataclass(slots=True)
class _Places:
    """Attributes:
    devices: replicas that have it on the device, and when that was told last.
    shared: tiers that have it, by machine, and when that was told last.
    recording: replica and edit that record it, by machine.
    """

    devices: dict[str, float] = field(default_factory=dict)
    shared: dict[str, dict[Warmth, float]] = field(default_factory=dict)
    recording: dict[str, tuple[str, str]] = field(default_factory=dict)


class TemplateMap:
    """Knows what it was told. Beyond so many templates it forgets those of which nothing was told longest.

    That a template is on a device is believed for a while only: devices have room for few, and nobody says what they
    let go of. Tiers below are believed until something else is told: an edit that goes there in vain says so.

    Times are seconds on the caller's clock.
    """

    def __init__(self, max_templates: int = 100_000, device_seconds: float = DEVICE_SECONDS) -> None:
        """Args:
        device_seconds: that a template is taken to be on a device, unless it is told again.
        """
        self._max_templates, self._device_seconds = max_templates, device_seconds
        self._places: dict[str, _Places] = {}  # the longest untold first

    def __len__(self) -> int:
        """Templates of which something is known."""
        return len(self._places)

    def warmed(self, template: str, tier: Warmth, replica: str, machine: str, now: float) -> None:
        """Its records are in this tier."""
        places = self._told(template)
        if tier == Warmth.DEVICE:
            places.devices[replica] = now
        else:
            places.shared.setdefault(machine, {})[tier] = now

    def evicted(self, template: str, tier: Warmth, replica: str, machine: str, since: float = inf) -> None:
        """Its records were not in this tier at a time: what was told after that stays."""
        places = self._places.get(template)
        if places is None:
            return
        if tier == Warmth.DEVICE:
            _forget_older(places.devices, replica, since)
        elif machine in places.shared:
            _forget_older(places.shared[machine], tier, since)
            if not places.shared[machine]:
                del places.shared[machine]
        self._drop_if_empty(template, places)

    def records(self, template: str, edit: str, replica: str, machine: str) -> None:
        """An edit begins to record it; another one of that machine that does already goes on."""
        self._told(template).recording.setdefault(machine, (replica, edit))

    def recorded(self, template: str, edit: str, machine: str) -> None:
        """An edit is over, which may have recorded it. Whether its records are there now is told by `warmed`."""
        places = self._places.get(template)
        if places is not None and places.recording.get(machine, ("", ""))[1] == edit:
            del places.recording[machine]
            self._drop_if_empty(template, places)

    def forget_device(self, replica: str) -> None:
        """A replica's device has nothing any more."""
        for template, places in list(self._places.items()):
            places.devices.pop(replica, None)
            self._drop_if_empty(template, places)

    def forget_machine(self, machine: str) -> None:
        """A machine is lost, with all that its replicas share."""
        for template, places in list(self._places.items()):
            places.shared.pop(machine, None)
            places.recording.pop(machine, None)
            self._drop_if_empty(template, places)

    def at(self, template: str, replica: str, machine: str, now: float) -> Warmth:
        """How it serves an edit on a replica."""
        on_replicas, on_machines = dict(self.on_replicas(template, now)), dict(self.on_machines(template))
        return on_replicas.get(replica, on_machines.get(machine, Warmth.COLD))

    def on_machines(self, template: str) -> Iterator[tuple[str, Warmth]]:
        """Machines that share its records, with the warmest tier, and DENSE where it is being recorded."""
        places = self._places.get(template)
        if places is not None:
            for machine in places.recording:
                if machine not in places.shared:
                    yield machine, Warmth.DENSE
            for machine, tiers in places.shared.items():
                yield machine, min(tiers)

    def on_replicas(self, template: str, now: float) -> Iterator[tuple[str, Warmth]]:
        """Replicas that are better off than their machine.

        For the edits of the replica that records it, it is as if the records were in the host tier.
        """
        places = self._places.get(template)
        if places is not None:
            for replica, _ in places.recording.values():
                yield replica, Warmth.HOST
            for replica, told in places.devices.items():
                if now - told <= self._device_seconds:
                    yield replica, Warmth.DEVICE

    def _told(self, template: str) -> _Places:
        places = self._places.pop(template, None) or _Places()
        self._places[template] = places
        if len(self._places) > self._max_templates:
            del self._places[next(iter(self._places))]
        return places

    def _drop_if_empty(self, template: str, places: _Places) -> None:
        if not (places.devices or places.shared or places.recording):
            del self._places[template]


def _forget_older(told: dict[Place, float], place: Place, since: float) -> None:
    if told.get(place, inf) <= since:
        told.pop(place, None)
