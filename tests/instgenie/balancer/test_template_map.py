"""Where templates are."""

from __future__ import annotations

from instgenie.balancer.template_map import TemplateMap, Warmth


def test_machines_share_what_is_not_on_a_device() -> None:
    templates = TemplateMap()
    templates.warmed("t", Warmth.DISK, "r0", "m")
    assert templates.at("t", "r1", "m") == Warmth.DISK
    templates.warmed("t", Warmth.HOST, "r0", "m")
    templates.warmed("t", Warmth.DEVICE, "r0", "m")
    assert [templates.at("t", *place) for place in (("r0", "m"), ("r1", "m"), ("r2", "other"))] == [
        Warmth.DEVICE,
        Warmth.HOST,
        Warmth.COLD,
    ]


def test_what_is_evicted_is_served_from_the_next_tier() -> None:
    templates = TemplateMap()
    for tier in (Warmth.DEVICE, Warmth.HOST, Warmth.DISK):
        templates.warmed("t", tier, "r", "m")
    seen = []
    for tier in (Warmth.DEVICE, Warmth.HOST, Warmth.DISK):
        templates.evicted("t", tier, "r", "m")
        seen.append(templates.at("t", "r", "m"))
    assert seen == [Warmth.HOST, Warmth.DISK, Warmth.COLD]
    assert len(templates) == 0
    templates.evicted("t", Warmth.HOST, "r", "m")


def test_one_replica_of_a_machine_records_and_others_compute_all() -> None:
    templates = TemplateMap()
    templates.records("t", "e", "r0", "m")
    templates.records("t", "later", "r1", "m")
    assert templates.at("t", "r0", "m") == Warmth.HOST
    assert templates.at("t", "r1", "m") == Warmth.DENSE
    templates.recorded("t", "later", "m")
    assert templates.at("t", "r1", "m") == Warmth.DENSE
    templates.warmed("t", Warmth.HOST, "r0", "m")
    templates.recorded("t", "e", "m")
    assert templates.at("t", "r1", "m") == Warmth.HOST


def test_a_device_or_a_machine_is_lost() -> None:
    templates = TemplateMap()
    templates.warmed("t", Warmth.DEVICE, "r0", "m")
    templates.warmed("t", Warmth.HOST, "r0", "m")
    templates.warmed("u", Warmth.DEVICE, "r0", "m")
    templates.forget_device("r0")
    assert templates.at("t", "r0", "m") == Warmth.HOST
    assert len(templates) == 1
    templates.forget_machine("m")
    assert len(templates) == 0


def test_templates_told_of_longest_ago_are_forgotten() -> None:
    templates = TemplateMap(max_templates=2)
    for template in ("t", "u", "t", "v"):
        templates.warmed(template, Warmth.HOST, "r", "m")
    assert [templates.at(template, "r", "m") for template in "tuv"] == [Warmth.HOST, Warmth.COLD, Warmth.HOST]
