"""The reply of `/readyz`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from instgenie_server.schemas import HealthReply


class AwaitedReplica(BaseModel):
    """A replica that takes no edits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="its number, or its address")
    seconds: float | None = Field(default=None, description="since when, where that is known")
    reason: str = Field(description="what is known of it")


class ReadinessReply(HealthReply):
    """Whether edits are taken, and what is waited for."""

    awaited: list[AwaitedReplica] | None = Field(
        default=None, description="replicas that take no edits; told to callers who may edit"
    )
