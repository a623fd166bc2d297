"""Where templates are."""

from __future__ import annotations

from instgenie.balancer.template_map import TemplateMap, Warmth


def test_machines_share_what_is_not_on_a_device() -> None:
    templates = TemplateMap()
    templates.warmed("t", Warmth.DISK, "r0", "m", 0.0)
    assert templates.at("t", "r1", "m", 0.0) == Warmth.DISK
    templates.warmed("t", Warmth.HOST, "r0", "m", 0.0)
    templates.warmed("t", Warmth.DEVICE, "r0", "m", 0.0)
    assert [templates.at("t", *place, 0.0) for place in (("r0", "m"), ("r1", "m"), ("r2", "other"))] == [
        Warmth.DEVICE,
        Warmth.HOST,
        Warmth.COLD,
    ]


def test_what_is_evicted_is_served_from_the_next_tier() -> None:
    templates = TemplateMap()
    for tier in (Warmth.DEVICE, Warmth.HOST, Warmth.DISK):
        templates.warmed("t", tier, "r", "m", 0.0)
    seen = []
    for tier in (Warmth.DEVICE, Warmth.HOST, Warmth.DISK):
        templates.evicted("t", tier, "r", "m")
        seen.append(templates.at("t", "r", "m", 0.0))
    assert seen == [Warmth.HOST, Warmth.DISK, Warmth.COLD]
    assert len(templates) == 0
    templates.evicted("t", Warmth.HOST, "r", "m")


def test_one_replica_of_a_machine_records_and_others_compute_all() -> None:
    templates = TemplateMap()
    templates.records("t", "e", "r0", "m")
    templates.records("t", "later", "r1", "m")
    assert templates.at("t", "r0", "m", 0.0) == Warmth.HOST
    assert templates.at("t", "r1", "m", 0.0) == Warmth.DENSE
    templates.recorded("t", "later", "m")
    assert templates.at("t", "r1", "m", 0.0) == Warmth.DENSE
    templates.warmed("t", Warmth.HOST, "r0", "m", 0.0)
    templates.recorded("t", "e", "m")
    assert templates.at("t", "r1", "m", 0.0) == Warmth.HOST


def test_a_device_or_a_machine_is_lost() -> None:
    templates = TemplateMap()
    templates.warmed("t", Warmth.DEVICE, "r0", "m", 0.0)
    templates.warmed("t", Warmth.HOST, "r0", "m", 0.0)
    templates.warmed("u", Warmth.DEVICE, "r0", "m", 0.0)
    templates.forget_device("r0")
    assert templates.at("t", "r0", "m", 0.0) == Warmth.HOST
    assert len(templates) == 1
    templates.forget_machine("m")
    assert len(templates) == 0


def test_templates_told_of_longest_ago_are_forgotten() -> None:
    templates = TemplateMap(max_templates=2)
    for template in ("t", "u", "t", "v"):
        templates.warmed(template, Warmth.HOST, "r", "m", 0.0)
    assert [templates.at(template, "r", "m", 0.0) for template in "tuv"] == [Warmth.HOST, Warmth.COLD, Warmth.HOST]


def test_a_device_is_believed_to_have_a_template_for_a_while() -> None:
    templates = TemplateMap(device_seconds=10.0)
    templates.warmed("t", Warmth.DEVICE, "r", "m", 0.0)
    templates.warmed("t", Warmth.HOST, "r", "m", 0.0)
    assert [templates.at("t", "r", "m", now) for now in (10.0, 10.5)] == [Warmth.DEVICE, Warmth.HOST]
    templates.warmed("t", Warmth.DEVICE, "r", "m", 10.5)
    assert [templates.at("t", "r", "m", now) for now in (20.0, 1e6)] == [Warmth.DEVICE, Warmth.HOST]


def test_what_was_told_after_a_time_is_not_forgotten_for_what_was_found_then() -> None:
    templates = TemplateMap()
    for tier, now in ((Warmth.DEVICE, 1.0), (Warmth.HOST, 2.0), (Warmth.DISK, 3.0)):
        templates.warmed("t", tier, "r", "m", now)
    for tier in (Warmth.DEVICE, Warmth.HOST, Warmth.DISK):
        templates.evicted("t", tier, "r", "m", since=2.0)
    assert templates.at("t", "r", "m", 3.0) == Warmth.DISK
