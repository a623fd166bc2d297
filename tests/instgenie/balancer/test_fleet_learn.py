"""What ended edits tell of where their templates are."""

from __future__ import annotations

from typing import Literal

import pytest

from instgenie.balancer.fleet import Fleet
from instgenie.balancer.policies import FinishTime
from instgenie.balancer.template_map import Warmth
from instgenie.orders import PhaseTimings, ServingTier
from tests.instgenie.balancer.fleets import Spec, a_demand, fleet_of

Cache = Literal["hit", "cold", "partial", "refused", "off"]


def timings(cache: Cache, tier: ServingTier | None = None) -> PhaseTimings:
    """Of an edit that was served so."""
    return PhaseTimings(
        queue_ms=0.0,
        encode_ms=0.0,
        record_ms=0.0,
        denoise_ms=1000.0,
        decode_ms=0.0,
        cache=cache,
        steps=4,
        dense_steps=0,
        tokens_active=1,
        tokens_total=10,
        tier=tier,
    )


def a_fleet(*told: ServingTier) -> Fleet:
    """Two replicas on one machine, and one elsewhere; the template was told to be in these tiers of the first one."""
    warm = tuple(("t", tier) for tier in told)
    return fleet_of([Spec("a", "m", warm=warm), Spec("b", "m"), Spec("c", "n")])


def run(
    fleet: Fleet, cache: Cache, tier: ServingTier | None = None, *, at: str = "a", edit_id: str = "new"
) -> list[Warmth]:
    """An edit of the template runs from 10 to 14, and ends so: how warm the template is at each replica then."""
    demand = a_demand(edit_id)
    fleet.accept(at, demand)
    fleet.step(at, demand.id, 0, 10.0)
    fleet.learn(at, demand.id, demand, timings(cache, tier), 14.0)
    fleet.end(at, demand.id, 14.0)
    return where(fleet)


def where(fleet: Fleet) -> list[Warmth]:
    """How warm the template is at each replica."""
    return [Warmth(int(warmth)) for warmth in fleet.warmths(a_demand())]


DEVICE, HOST, DISK, COLD = Warmth.DEVICE, Warmth.HOST, Warmth.DISK, Warmth.COLD


@pytest.mark.parametrize(
    ("told", "tier", "expected"),
    [
        ((), "device", [DEVICE, COLD, COLD]),
        ((), "host", [HOST, HOST, COLD]),
        ((), "disk", [HOST, HOST, COLD]),  # by the host tier it came
        ((), "object", [HOST, HOST, COLD]),
        (("host",), "device", [DEVICE, HOST, COLD]),
        (("device",), "host", [HOST, HOST, COLD]),
        (("device", "host"), "disk", [HOST, HOST, COLD]),
        (("disk",), "host", [HOST, HOST, COLD]),
        (("host", "disk"), "object", [HOST, HOST, COLD]),
        (("device", "host"), None, [DEVICE, HOST, COLD]),  # the store could not say
    ],
)
def test_hits_tell_where_records_were(
    told: tuple[ServingTier, ...], tier: ServingTier | None, expected: list[Warmth]
) -> None:
    assert run(a_fleet(*told), "hit", tier) == expected


def test_what_was_brought_into_the_host_tier_is_where_it_came_from_too() -> None:
    fleet = a_fleet()
    run(fleet, "hit", "disk")
    fleet.evicted("a", "t", "host")
    assert where(fleet) == [DISK, DISK, COLD]


def test_a_cold_edit_has_its_template_in_the_host_tier_alone() -> None:
    fleet = a_fleet("device", "host", "disk")
    assert run(fleet, "cold") == [HOST, HOST, COLD]
    fleet.evicted("a", "t", "host")
    assert where(fleet) == [COLD, COLD, COLD]


@pytest.mark.parametrize("cache", ["partial", "refused"])
def test_records_that_were_lost_or_refused_are_nowhere(cache: Cache) -> None:
    assert run(a_fleet("device", "host", "disk", "object"), cache) == [COLD, COLD, COLD]


def test_other_machines_and_other_devices_are_as_they_were() -> None:
    fleet = a_fleet("host")
    fleet.warmed("b", "t", "device")
    fleet.warmed("c", "t", "host")
    assert run(fleet, "cold") == [HOST, DEVICE, HOST]


def test_dense_edits_tell_nothing() -> None:
    fleet, demand = a_fleet("device", "host"), a_demand(cache="off")
    fleet.accept("a", demand)
    fleet.learn("a", demand.id, demand, timings("off"), 14.0)
    assert where(fleet) == [DEVICE, HOST, COLD]


def test_what_was_told_while_the_edit_ran_stays() -> None:
    """It found nothing at 10; at 12 somebody else had recorded the template."""
    fleet, demand = a_fleet(), a_demand()
    fleet.accept("a", demand)
    fleet.step("a", demand.id, 0, 10.0)
    fleet.warmed("b", "t", "host", 12.0)
    fleet.learn("a", demand.id, demand, timings("refused"), 14.0)
    fleet.end("a", demand.id, 14.0)
    assert where(fleet) == [HOST, HOST, COLD]


def test_others_on_the_machine_no_longer_compute_all_once_it_is_recorded() -> None:
    fleet, demand = a_fleet(), a_demand()
    fleet.accept("a", demand)
    assert where(fleet) == [HOST, Warmth.DENSE, COLD]
    assert run(fleet, "cold", edit_id="other") == [HOST, HOST, COLD]
    fleet.end("a", demand.id, 15.0)
    assert where(fleet) == [HOST, HOST, COLD]


def test_replicas_that_are_not_known_teach_nothing() -> None:
    fleet = a_fleet()
    fleet.learn("z", "new", a_demand(), timings("hit", "host"), 14.0)
    assert where(fleet) == [COLD, COLD, COLD]


def test_an_edit_that_was_not_known_there_tells_of_its_template_nevertheless() -> None:
    """Its replica was thought to be through with it."""
    fleet = a_fleet("device", "host")
    fleet.learn("a", "gone", a_demand(), timings("hit", "disk"), 14.0)
    assert where(fleet) == [HOST, HOST, COLD]


def test_the_next_edit_goes_where_the_last_one_was() -> None:
    fleet = fleet_of([Spec(name, name, heard_at=9.0) for name in "abcdefgh"])
    first = FinishTime().choose(a_demand("first"), fleet, 9.0)
    home = next(name for name in "abcdefgh" if name != first)
    run(fleet, "cold", at=home)
    assert FinishTime().choose(a_demand("next"), fleet, 15.0) == home


def test_a_device_is_not_believed_for_ever() -> None:
    fleet = a_fleet("host", "disk")
    assert run(fleet, "hit", "device") == [DEVICE, HOST, COLD]
    fleet.step("b", "none", 1, 14.0 + 600.0)
    assert where(fleet) == [DEVICE, HOST, COLD]
    fleet.step("b", "none", 1, 14.0 + 601.0)
    assert where(fleet) == [HOST, HOST, COLD]
