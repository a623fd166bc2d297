"""Recording only the steps of a template that differ from what is recorded already."""

from __future__ import annotations

from instgenie.codecs import CodecName
from instgenie.drift import DriftMeter
from instgenie.keyframes import Keyframes
from instgenie.models.segment import KeyValue
from instgenie.records import DeviceRecord, PutRecord


class KeyframeRecorder:
    """A `Recorder` of all steps of a template lane, one after the other.

    A step is kept or left out as a whole, since that is what a store loads and evicts; which of the two is known only
    once all of its blocks were computed. Until then their encoded records stay on the model's device.
    """

    def __init__(self, put: PutRecord, codec: CodecName, drift: float) -> None:
        """Args:
        put: takes the records that are kept, filed under their rows.
        drift: a step is kept where it drifted by more than this from the last kept one.
        """
        self._put, self._codec, self._limit = put, codec, drift
        self._meter = DriftMeter()
        self._held: dict[int, DeviceRecord] = {}
        self._kept: list[int] = []

    def record(self, block: int, kv: KeyValue) -> None:
        """See `Recorder`."""
        self._meter.see(block, kv)
        self._held[block] = DeviceRecord.of(kv, self._codec)

    def end_step(self, step: int) -> None:
        """All blocks of the step were recorded: put them, where it is kept.

        Raises:
            CacheError: the store refused a record.
        """
        if self._meter.drift() > self._limit:
            for block, held in self._held.items():
                self._put(len(self._kept), block, held)
            self._kept.append(step)
            self._meter.keep()
        self._held.clear()

    def keyframes(self, steps: int) -> Keyframes:
        """What was kept of so many steps."""
        return Keyframes(tuple(self._kept), steps)
