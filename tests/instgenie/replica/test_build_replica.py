"""A replica from settings: what it says of limits that hold edits up."""

from __future__ import annotations

import pytest

from instgenie.checkpoint import Checkpoint
from instgenie.replica.build_replica import build_replica
from instgenie.replica.default_limits import dense_rows
from instgenie_cache import MemoryStore
from tests.instgenie.edits import PLENTY_BYTES

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(("missing_tokens", "warnings"), [(None, 0), (0, 0), (1, 1)])
async def test_too_few_tokens_for_a_dense_step_are_told_once(
    builtin_kind: Checkpoint, caplog: pytest.LogCaptureFixture, missing_tokens: int | None, warnings: int
) -> None:
    """Two prompts of 64 image tokens and their text are what an edit of the whole canvas computes."""
    needed = dense_rows(builtin_kind)
    assert needed == 2 * (64 + builtin_kind.settings.text_tokens)
    tokens = None if missing_tokens is None else needed - missing_tokens
    replica = build_replica(
        builtin_kind,
        MemoryStore(PLENTY_BYTES),
        codec="raw",
        drift=0.0,
        device_bytes=0,
        policy="gdsf",
        plans=False,
        batch_tokens=tokens,
    )
    await replica.close()
    assert replica.model.batch_tokens == tokens or tokens is None
    said = [record.getMessage() for record in caplog.records if record.name.endswith("build_replica")]
    assert len(said) == warnings
    for line in said:
        assert line.startswith(f"a batch may have {tokens} tokens")
        assert f"computes {needed} " in line
