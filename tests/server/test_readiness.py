"""What a server says of the replicas that it waits for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from instgenie.orders import Replica
from instgenie_server.access.key_file import KeyFile
from instgenie_server.access.keys import ScryptCost
from instgenie_server.fleet.awaited import FirstReplicas
from instgenie_server.fleet.open_fleet import open_replica
from instgenie_server.settings import AuthSettings, CacheSettings, EngineSettings, Settings
from tests.server.fleet.crew import crew
from tests.server.routes.scripted_replica import MODEL
from tests.server.routes.site import Site, running_site


@asynccontextmanager
async def waiting_site(settings: Settings, addresses: list[str]) -> AsyncIterator[Site]:
    """A server whose replicas' addresses nobody listens at."""
    first_replicas = FirstReplicas()

    def opened() -> AbstractAsyncContextManager[Replica]:
        engine = EngineSettings(replica=",".join(addresses))
        return open_replica(engine, CacheSettings(service=None), expect=first_replicas.expect)

    async with running_site(settings, opened, opened=False, first_replicas=first_replicas) as site:
        yield site


async def awaited(site: Site, count: int, **options: Any) -> list[dict[str, Any]]:
    """What is told to be waited for, once each has been tried."""
    while True:
        reply = await site.get("/readyz", 503, **options)
        assert reply["status"] == "starting"
        found: list[dict[str, Any]] = reply.get("awaited", [])
        if len(found) == count and all("not there yet" not in one["reason"] for one in found):
            return found


async def test_addresses_where_nobody_listens_are_named(tmp_path: Path) -> None:
    addresses = [f"unix:{tmp_path}/a.sock", f"unix:{tmp_path}/b.sock"]
    with capture_logs() as logged:
        async with waiting_site(Settings(data_dir=tmp_path), addresses) as site:
            found = await awaited(site, 2)
    assert [one["id"] for one in found] == addresses
    for one in found:
        assert one["id"].removeprefix("unix:") in one["reason"]
        assert 0 <= one["seconds"] < 60
    warned = [line for line in logged if line["log_level"] == "warning"]
    assert sorted(line["replica"] for line in warned) == addresses
    assert all(line["replica"] in line["reason"] for line in warned)


async def test_they_are_for_callers_who_may_edit(tmp_path: Path) -> None:
    text, _ = KeyFile(tmp_path).add("a", datetime.now(UTC), ScryptCost(n=2))
    settings = Settings(data_dir=tmp_path, auth=AuthSettings(required=True))
    async with waiting_site(settings, [f"unix:{tmp_path}/a.sock"]) as site:
        assert await awaited(site, 1, headers={"authorization": f"Bearer {text}"})
        for headers in ({}, {"authorization": "Bearer ig-wrong"}):
            reply = await site.get("/readyz", 503, headers=headers)
            assert set(reply) == {"status", "version"}


async def test_why_members_of_a_fleet_take_no_edits(tmp_path: Path) -> None:
    async with crew(3) as team:

        @asynccontextmanager
        async def opened() -> AsyncIterator[Replica]:
            yield team.fleet

        async with running_site(Settings(data_dir=tmp_path), opened) as site:
            assert "awaited" not in await site.get("/readyz")
            await team[1].kill()
            (one,) = (await site.get("/readyz"))["awaited"]
            assert (one["id"], one["reason"]) == ("1", "its process ended by signal 9")
            await team[2].kill()
            team[2].host.model = replace(MODEL, name="other")
            await team[2].run()
            assert {one["id"]: one["reason"] for one in (await site.get("/readyz"))["awaited"]}["2"] == (
                "it serves another model than the others"
            )
            team.clock.now += 3600
            assert (await site.get("/readyz"))["awaited"][2] == {
                "id": "3", "seconds": 3600.0, "reason": "it is connected to, and does not answer"
            }  # fmt: skip
