"""What a replica takes on at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """Bounds of a batch and of what waits for one.

    Attributes:
        edits: most in a batch.
        rows: tokens that a step may compute, those of lanes included. What needs more than that goes alone.
        lane_rows: tokens up to which several steps of a lane go into one forward, where no edit runs: an edit that
            comes then waits for them. One step always may.
        num_bytes: of device memory, for edits from their encoding on and for lanes; None has no limit.
        encode_ahead: edits that may be encoded and wait for their admission.
        stage_share: of a step's time, that encoding and decoding may take before the next step; one item always may.
        lane_every: a lane without edits takes one step in so many batches, while edits run.
        joins: step: edits join a running batch. empty: only when no edit runs, which is static batching, to compare
            with; its batches have as many edits as were encoded meanwhile, `encode_ahead` at most.
    """

    edits: int = 8
    rows: int = 4096
    lane_rows: int = 4096
    num_bytes: int | None = None
    encode_ahead: int = 4
    stage_share: float = 0.5
    lane_every: int = 4
    joins: Literal["step", "empty"] = "step"

    def __post_init__(self) -> None:
        """Raises:
        ValueError: a number below 1, a share that is not above 0, or an unknown word.
        """
        for name in ("edits", "rows", "lane_rows", "num_bytes", "encode_ahead", "lane_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value} is below 1")
        if not self.stage_share > 0:
            raise ValueError(f"stage_share {self.stage_share} is not above 0")
        if self.joins not in ("step", "empty"):
            raise ValueError(f"joins {self.joins!r} is neither 'step' nor 'empty'")
