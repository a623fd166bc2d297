"""Ways to make a cached edit, beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import instgenie.correction
from instgenie.codecs import CodecName
from instgenie.fidelity import default_refreshes

# Picks, of an edit's steps, those that compute all tokens.
PickSteps = Callable[[int], Sequence[int]]

FEWEST_CASES = 20  # of a setting that clients may choose


@dataclass(frozen=True, slots=True)
class Setting:
    """A way.

    Attributes:
        halo, refreshes: of the edit; None are as many refreshes as by default.
        step_cache: of the edit: one step of so many is computed.
        codec, drift: of records.
        caption: whether the template is recorded with the edit's own prompt, instead of an empty one.
        dense: steps that compute all tokens, in place of refreshes: nothing is learnt from them.
        every: it is tried on one case of so many.
        is_ranked: whether somebody looks what its edits show.
    """

    name: str
    halo: int = 1
    refreshes: int | None = None
    step_cache: int = 1
    codec: CodecName = "raw"
    drift: float = 0.0
    caption: bool = False
    dense: PickSteps | None = None
    every: int = 10
    is_ranked: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is but a halo, refreshes and a step cache, which a client can choose."""
        return (self.codec, self.drift, self.caption, self.dense) == ("raw", 0.0, False, None)


def _first(count: int) -> PickSteps:
    return lambda _: range(count)


def _each(stride: int) -> PickSteps:
    return lambda steps: range(0, steps, stride)


SETTINGS = (
    Setting("default", every=1, is_ranked=True),
    Setting("halo 0", 0, 0),
    Setting("halo 1", 1, 0, every=4, is_ranked=True),
    Setting("halo 2", 2, 0, every=20),
    Setting("halo 3", 3, 0, every=20),
    Setting("halo 0, 1 refresh", 0, 1),
    Setting("halo 2, 1 refresh", 2, 1),
    Setting("halo 1, 2 refreshes", 1, 2, every=5),
    Setting("halo 1, 3 refreshes", 1, 3, every=5),
    Setting("halo 1, 5 refreshes", 1, 5, every=5),
    Setting("halo 2, 4 refreshes", 2, 4, every=5),
    Setting("default, step cache 2", step_cache=2, every=2, is_ranked=True),
    Setting("default, step cache 3", step_cache=3, every=4),
    Setting("default, step cache 4", step_cache=4, every=5),
    Setting("halo 1, no refresh, step cache 2", 1, 0, step_cache=2, every=5),
    Setting("halo 1, 3 refreshes, step cache 2", 1, 3, step_cache=2, every=5),
    Setting("halo 1, 3 refreshes, step cache 3", 1, 3, step_cache=3, every=5),
    Setting("halo 1, first step dense", 1, dense=_first(1), every=20),
    Setting("halo 1, first 2 steps dense", 1, dense=_first(2), every=20),
    Setting("halo 1, first 5 steps dense", 1, dense=_first(5), every=20),
    Setting("halo 1, every 5th step dense", 1, dense=_each(5), every=20),
    Setting("default, int8", codec="int8", every=20),
    Setting("default, drift 0.14", drift=0.14, every=20),
    Setting("default, int8, drift 0.26", codec="int8", drift=0.26, every=20),
    Setting("default, captioned template", caption=True, every=20),
)


def refreshes_of(setting: Setting, steps: int) -> int:
    """As many as its edits have."""
    return default_refreshes(steps) if setting.refreshes is None else setting.refreshes


@contextmanager
def nothing_learnt() -> Iterator[None]:
    """Steps that compute all tokens are dense ones, and correct nothing."""
    fade = instgenie.correction.FADE
    instgenie.correction.FADE = 0.0
    try:
        yield
    finally:
        instgenie.correction.FADE = fade
