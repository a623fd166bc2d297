"""Which piece of stage work is next."""

from __future__ import annotations

from instgenie.sched.stages import Stages
from instgenie.sched.step_batch import StageItem


def kinds(stages: Stages, count: int, *, decode: bool, encode: bool, has_room: bool, is_allowed: bool = True) -> str:
    """The first letters of what is chosen; a dash where that is nothing."""
    items = [
        stages.choose(
            "done" if decode else None, "new" if encode else None, has_room=has_room, allows=lambda _: is_allowed
        )
        for _ in range(count)
    ]
    return "".join(item.kind[0] if item else "-" for item in items)


def test_there_may_be_nothing_to_do() -> None:
    assert Stages().choose(None, None, has_room=True, allows=lambda _: True) is None


def test_decoding_goes_before_encoding_where_the_batch_is_full() -> None:
    assert kinds(Stages(), 3, decode=True, encode=True, has_room=False) == "ddd"


def test_where_there_is_room_a_decoding_waits_for_one_encoding_at_most() -> None:
    stages = Stages()
    assert kinds(stages, 4, decode=True, encode=True, has_room=True) == "dede"
    assert kinds(stages, 2, decode=False, encode=True, has_room=True) == "ee"
    assert kinds(stages, 1, decode=True, encode=True, has_room=True) == "d"


def test_no_turn_is_kept_for_an_encoding_that_went_away() -> None:
    stages = Stages()
    assert kinds(stages, 1, decode=True, encode=True, has_room=True) == "d"
    assert kinds(stages, 1, decode=False, encode=False, has_room=True) == "-"
    assert kinds(stages, 1, decode=True, encode=True, has_room=True) == "d"


def test_what_is_not_allowed_keeps_its_turn() -> None:
    stages = Stages()
    for kind in "dede":
        assert kinds(stages, 3, decode=True, encode=True, has_room=True, is_allowed=False) == "---"
        assert kinds(stages, 1, decode=True, encode=True, has_room=True) == kind
    stages.want_preview("a")
    assert kinds(stages, 9, decode=False, encode=True, has_room=True, is_allowed=False) == "-" * 9
    assert kinds(stages, 4, decode=False, encode=True, has_room=True) == "eeep"


def test_nothing_shorter_goes_in_place_of_what_is_not_allowed() -> None:
    stages = Stages()
    stages.want_preview("a")
    assert stages.choose("done", "new", has_room=False, allows=lambda kind: kind != "decode") is None
    assert stages.choose("done", "new", has_room=False, allows=lambda kind: kind == "decode")


def test_previews_are_last_and_made_once() -> None:
    stages = Stages()
    stages.want_preview("a")
    stages.want_preview("a")
    stages.want_preview("b")
    stages.forget("b")
    assert kinds(stages, 1, decode=True, encode=False, has_room=True) == "d"
    assert kinds(stages, 1, decode=False, encode=True, has_room=True) == "e"
    assert stages.choose(None, None, has_room=True, allows=lambda _: True) == StageItem("preview", "a")
    assert kinds(stages, 1, decode=False, encode=False, has_room=True) == "-"


def test_a_preview_goes_before_encodings_when_three_items_have_gone_before_it() -> None:
    stages = Stages()
    stages.want_preview("a")
    assert kinds(stages, 5, decode=False, encode=True, has_room=True) == "eeepe"


def test_late_previews_let_encodings_between_them_where_there_is_room() -> None:
    stages = Stages()
    for name in "abc":
        stages.want_preview(name)
    assert kinds(stages, 3, decode=True, encode=False, has_room=True) == "ddd"
    assert kinds(stages, 4, decode=False, encode=True, has_room=True) == "pepe"
