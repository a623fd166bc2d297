"""A store put together from its settings."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from instgenie_cache.eviction import PolicyName
from instgenie_cache.policies import make_policy
from instgenie_cache.stores.observer import StoreObserver
from instgenie_cache.stores.tiered_store import TieredStore
from instgenie_cache.tiers.arena import PAGE_BYTES, Arena
from instgenie_cache.tiers.disk_tier import DiskTier, SyncPolicy
from instgenie_cache.tiers.host_tier import HostTier
from instgenie_cache.tiers.object_tier import ObjectTier
from instgenie_cache.tiers.tier import ColdTier


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What a store is made of.

    Attributes:
        host_bytes: memory for records; the system provides it as it is used.
        folder: of the disk tier.
        disk_bytes: what it may hold; 0 for none.
        object_url: of an object store behind them, as obstore takes it: `s3://bucket/prefix`, `file:///folder` ...
    """

    host_bytes: int
    folder: Path | None = None
    disk_bytes: int = 0
    host_policy: PolicyName = "gdsf"
    disk_policy: PolicyName = "gdsf"
    sync: SyncPolicy = "commit"
    object_url: str | None = None


def build_store(settings: StoreSettings, observer: StoreObserver | None = None) -> TieredStore:
    """Open the tiers and a store over them.

    Raises:
        CacheError: memory, folder or object store cannot be had.
    """
    with ExitStack() as opened:
        arena = Arena.create(max(settings.host_bytes, PAGE_BYTES))
        opened.callback(arena.close)
        cold: list[ColdTier] = []
        if settings.folder is not None and settings.disk_bytes:
            cold.append(DiskTier.open(settings.folder, settings.disk_bytes, settings.sync))
            opened.callback(cold[-1].close)
        if settings.object_url is not None:
            cold.append(ObjectTier.open(settings.object_url))
            opened.callback(cold[-1].close)
        host = HostTier(arena, make_policy(settings.host_policy))
        store = TieredStore(host, cold, make_policy(settings.disk_policy), observer)
        opened.pop_all()
        return store
