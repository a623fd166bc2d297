"""Requests to try an editor with, and models and stores that watch or fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from instgenie.checkpoint import Checkpoint
from instgenie.editor import Editor
from instgenie.models.flux import FluxForward
from instgenie.models.segment import Segment
from instgenie.request import EditRequest
from instgenie.text import Prompt, PromptEncoder
from instgenie_cache import CacheError, MemoryStore, Record, RecordStore, TemplateLease, TierName

PLENTY_BYTES = 1 << 30


def random_picture(width: int = 64, height: int = 64, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture in which every pixel is random, its alpha too."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, len(mode)), np.uint8))


def pixels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """[H, W, C]."""
    return np.asarray(picture)


def a_request(picture: Image.Image | None = None, **settings: Any) -> EditRequest:
    """An edit of a 20x12 box in a random picture of 64x64 pixels, without a halo unless the settings say otherwise."""
    picture = picture or random_picture()
    if "mask" not in settings:
        settings["mask"] = np.zeros((picture.height, picture.width), bool)
        settings["mask"][18:30, 20:40] = True
    values: dict[str, Any] = {"picture": picture, "prompt": "a red apple", "halo": 0}
    return EditRequest(**(values | settings))


def an_editor(checkpoint: Checkpoint, store: RecordStore | None = None, **settings: Any) -> Editor:
    """An editor with a store of its own, or this one."""
    return Editor(checkpoint, MemoryStore(PLENTY_BYTES) if store is None else store, **settings)


class WatchedForward(FluxForward):
    """A forward that keeps what went in and what came out."""

    def __init__(self, forward: FluxForward) -> None:
        super().__init__(forward.transformer)
        self.calls: list[tuple[list[Segment], list[Tensor]]] = []

    def __call__(self, segments: Sequence[Segment], on_block: Callable[[int], None] = lambda _: None) -> list[Tensor]:
        velocities = super().__call__(segments, on_block)
        self.calls.append((list(segments), list(velocities)))
        return velocities


class CountedPrompts:
    """A prompt encoder that keeps what it was asked for."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self.texts: list[str] = []

    def encode(self, texts: list[str]) -> list[Prompt]:
        self.texts += texts
        return self.encoder.encode(texts)


def watched(checkpoint: Checkpoint) -> tuple[Checkpoint, WatchedForward]:
    """The checkpoint with a forward that is watched."""
    forward = WatchedForward(checkpoint.forward)
    return replace(checkpoint, forward=forward), forward


class TappedStore(MemoryStore):
    """A store whose reads go through `read`, which subclasses change."""

    def __init__(self, budget_bytes: int = PLENTY_BYTES) -> None:
        super().__init__(budget_bytes)
        self.reads: list[int] = []  # steps

    def lease(self, template: str) -> TemplateLease | None:
        lease = super().lease(template)
        return None if lease is None else TappedLease(self, template, lease)

    def read(self, template: str, step: int, records: Sequence[Record] | None) -> Sequence[Record] | None:
        """What a reader gets instead of `records`."""
        return records


class TappedLease:
    """A lease of a `TappedStore`."""

    def __init__(self, store: TappedStore, template: str, lease: TemplateLease) -> None:
        self._store, self._template, self._lease = store, template, lease

    @property
    def tier(self) -> TierName:
        return self._lease.tier

    @property
    def note(self) -> bytes:
        return self._lease.note

    @property
    def is_valid(self) -> bool:
        return self._lease.is_valid

    def prefetch(self, steps: Iterable[int]) -> None:
        self._lease.prefetch(steps)

    def step(self, step: int) -> Sequence[Record] | None:
        self._store.reads.append(step)
        return self._store.read(self._template, step, self._lease.step(step))

    def blocks(self, step: int, first: int, stop: int) -> Sequence[Record] | None:
        records = self.step(step)
        return None if records is None else records[first:stop]

    def tiers(self) -> Sequence[TierName]:
        return self._lease.tiers()

    def release(self) -> None:
        self._lease.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class BrokenStore(MemoryStore):
    """Answers nothing at all, as one whose connection is lost."""

    def create(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def lease(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def holds(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def num_bytes(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def delete(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def pin(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def unpin(self, *_: object) -> NoReturn:
        raise CacheError("connection lost")

    def flush(self) -> NoReturn:
        raise CacheError("connection lost")

    def close(self) -> NoReturn:
        raise CacheError("connection lost")
