"""Which piece of stage work is done next."""

from __future__ import annotations

from collections.abc import Callable

from instgenie.sched.step_batch import StageItem, StageKind

_BEFORE_A_PREVIEW = 3


class Stages:
    """Decoding goes first, then encoding, then previews.

    But where the batch has room and an edit waits for its encoding, it goes after one decoding at the latest: the
    device should not run half empty while finished pictures are made. And a preview that three items have gone before
    goes as a decoding does, behind these.
    """

    def __init__(self) -> None:
        self._previews: dict[str, int] = {}  # edit -> items that were done when it was asked for
        self._items = 0
        self._encode_is_owed = False

    @property
    def has_previews(self) -> bool:
        """Whether any are to be made."""
        return bool(self._previews)

    def want_preview(self, edit_id: str) -> None:
        """Ask for one; asking again before it is made changes nothing."""
        self._previews.setdefault(edit_id, self._items)

    def forget(self, edit_id: str) -> None:
        """It needs no preview any more."""
        self._previews.pop(edit_id, None)

    def choose(
        self, decode: str | None, encode: str | None, *, has_room: bool, allows: Callable[[StageKind], bool]
    ) -> StageItem | None:
        """What is done now; None where that is nothing, or of a kind that is not allowed: it keeps its turn.

        Args:
            decode, encode: edits whose turn it would be.
            has_room: whether an edit that is encoded now could join the batch.
        """
        encode_waits = encode is not None and has_room
        self._encode_is_owed = self._encode_is_owed and encode_waits
        preview = next(iter(self._previews), None)
        is_late = preview is not None and self._items - self._previews[preview] >= _BEFORE_A_PREVIEW
        item: StageItem | None
        if decode is not None and not self._encode_is_owed:
            item = StageItem("decode", decode)
        elif encode is not None and not (is_late and not self._encode_is_owed):
            item = StageItem("encode", encode)
        else:
            item = StageItem("preview", preview) if preview is not None else None
        if item is None or not allows(item.kind):
            return None
        self._items += 1
        self._encode_is_owed = encode_waits and item.kind != "encode"
        if item.kind == "preview":
            del self._previews[item.edit]
        return item
